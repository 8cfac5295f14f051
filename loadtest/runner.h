// Runs a scenario against a server.
#pragma once

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "loadtest/result.h"
#include "loadtest/scenario.h"

namespace sessa {

// Blocks until it is over. `stops`, raised from another thread, ends it early: at 1 no turn begins any more,
// as if the duration were over; at 2 those that run are cancelled. UNAVAILABLE when the server cannot be
// reached at the start; what goes wrong later is counted in the result.
absl::StatusOr<Result> RunScenario(const Scenario& scenario, const std::string& server,
                                   const std::atomic<int>* stops);

// The difference of the statuses that enclose [from, to] most closely from within; none with fewer than two.
std::optional<ServerFigures> ServerDifference(const std::vector<Result::ServerPoint>& points, double from,
                                              double to);

}  // namespace sessa
