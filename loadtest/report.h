// A result as text, JSON and a page. Pure functions.
#pragma once

#include <string>

#include "loadtest/result.h"

namespace sessa {

std::string TextReport(const Result& result);  // for a terminal
std::string JsonReport(const Result& result);  // one indented document; the keys carry the units
std::string HtmlReport(const Result& result);  // self-contained: inline CSS and SVG, light and dark

}  // namespace sessa
