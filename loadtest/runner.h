// Runs a scenario against a server.
#pragma once

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "loadtest/result.h"
#include "loadtest/scenario.h"

namespace sessa {

// Blocks until it is over. `stop`, when set from another thread, ends it early. UNAVAILABLE when the server
// cannot be reached at the start; what goes wrong later is counted in the result.
absl::StatusOr<Result> RunScenario(const Scenario& scenario, const std::string& server,
                                   std::atomic<bool>* stop);

// The difference of the statuses that enclose [from, to] most closely from within; none with fewer than two.
std::optional<ServerFigures> ServerDifference(const std::vector<Result::ServerPoint>& points, double from,
                                              double to);

}  // namespace sessa
