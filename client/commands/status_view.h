// A ServerStatus as a screen of text.
#pragma once

#include <deque>
#include <string>

#include "sessa/v1/admin.pb.h"

namespace sessa {

// Lines without escape sequences. `history`: generated tokens a second of earlier screens, oldest first, for
// a line of bars; empty: none.
std::string StatusScreen(const v1::ServerStatus& status, const std::deque<double>& history);

// "▁▃█": one bar a value, scaled to the largest.
std::string Bars(const std::deque<double>& values);

// "[#####.....]" of `width` characters between the brackets; share in [0, 1].
std::string Gauge(double share, int width);

}  // namespace sessa
