// The clock seam: tests and the simulator turn the hands themselves.
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace sessa {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Never goes back and never jumps, so that deadlines, idle times and the age of a step can be measured with
  // it.
  virtual absl::Time Now() const = 0;

  // The wall time of its first use, and from then on what the monotonic clock adds: corrections of the wall
  // clock since are not followed.
  static const Clock* Real();
};

}  // namespace sessa
