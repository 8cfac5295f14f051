// Where the core's hooks go.
#pragma once

#include <atomic>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "scheduler/core.h"
#include "server/metrics.h"
#include "server/status_source.h"

namespace sessa {

// Outlives the core. Thread-safe.
struct Telemetry {
  Metrics metrics;
  StepTotals steps;
  std::atomic<bool> failed{false};  // the device failed: the process must end

  CoreHooks Hooks() {
    CoreHooks hooks;
    hooks.on_step = [this](const StepReport& report) {
      metrics.OnStep(report);
      steps.Add(report);
    };
    hooks.on_turn = [this](const TurnReport& report) { metrics.OnTurn(report); };
    hooks.on_inter_token = [this](absl::Duration gap) { metrics.OnInterToken(gap); };
    hooks.on_cancel_to_free = [this](absl::Duration time) { metrics.OnCancelToFree(time); };
    hooks.on_fatal = [this](const absl::Status&) { failed = true; };
    return hooks;
  }
};

}  // namespace sessa
