#include "runtime/base/clock.h"

namespace sessa {

const Clock* Clock::Real() {
  class RealClock : public Clock {
   public:
    absl::Time Now() const override { return absl::Now(); }
  };
  static const RealClock clock;
  return &clock;
}

}  // namespace sessa
