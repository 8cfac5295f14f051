// The server's own figures over time, for Admin's status messages.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "absl/time/time.h"
#include "runtime/base/mutex.h"
#include "scheduler/core.h"
#include "sessa/v1/admin.pb.h"
#include "sessa/v1/inference.pb.h"

namespace sessa {

// Sums of steps. Thread-safe: the engine adds, others read.
class StepTotals {
 public:
  struct Values {
    absl::Duration step_time, device_time, ops_cpu_time;
    StepReport last;
  };
  void Add(const StepReport& report);
  Values Get() const;

 private:
  mutable Mutex mutex_;
  Values values_ ABSL_GUARDED_BY(mutex_);
};

// Thread-safe.
class StatusSource {
 public:
  struct Facts {  // constant
    v1::Model model;
    int32_t max_waiting = 0;
    absl::Duration stall_timeout = absl::InfiniteDuration();
  };
  StatusSource(const Core* core, const StepTotals* steps, Facts facts);

  // A point in time that rates can be counted from.
  struct Mark {
    absl::Time time;
    CoreStatus core;
    StepTotals::Values steps;
  };
  Mark Now() const;
  // Remembers marks, so that GetStatus can tell the rates of the last second. Called every fraction of a
  // second.
  void Tick();

  // The status now, with rates since `since`.
  v1::ServerStatus Since(const Mark& since) const;
  // With rates over about the last second.
  v1::ServerStatus Latest() const;
  // Why the server does not serve, by the core and by the age of the last step; empty: it serves.
  static std::string NotServingReason(const CoreStatus& status, absl::Duration stall_timeout);

 private:
  v1::ServerStatus Describe(const Mark& now, const Mark& since) const;

  const Core* const core_;
  const StepTotals* const steps_;
  const Facts facts_;
  mutable Mutex mutex_;
  std::deque<Mark> marks_ ABSL_GUARDED_BY(mutex_);  // of about the last second, oldest first
};

}  // namespace sessa
