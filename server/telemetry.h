// Where the core's hooks go.
#pragma once

#include "absl/status/status.h"
#include "runtime/base/mutex.h"
#include "scheduler/core.h"
#include "server/metrics.h"
#include "server/status_source.h"

namespace sessa {

// Outlives the core. Thread-safe.
class Telemetry {
 public:
  Metrics metrics;
  StepTotals steps;

  // Why the device failed, so that the process must end; OK: it did not.
  absl::Status failure() const {
    MutexLock lock(&mutex_);
    return failure_;
  }

  CoreHooks Hooks() {
    CoreHooks hooks;
    hooks.on_step = [this](const StepReport& report) {
      metrics.OnStep(report);
      steps.Add(report);
    };
    hooks.on_turn = [this](const TurnReport& report) { metrics.OnTurn(report); };
    hooks.on_inter_token = [this](absl::Duration gap) { metrics.OnInterToken(gap); };
    hooks.on_cancel_to_free = [this](absl::Duration time) { metrics.OnCancelToFree(time); };
    hooks.on_fatal = [this](const absl::Status& status) {
      MutexLock lock(&mutex_);
      failure_ = status;
    };
    return hooks;
  }

 private:
  mutable Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sessa
