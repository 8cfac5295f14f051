// The clock seam: production reads the monotonic clock, tests and the simulator turn the hands themselves.
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace sessa {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;  // wall time; intervals of a running system are measured with it too

  static const Clock* Real();
};

}  // namespace sessa
