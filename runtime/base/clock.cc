#include "runtime/base/clock.h"

#include <chrono>

namespace sessa {

const Clock* Clock::Real() {
  class RealClock : public Clock {
   public:
    absl::Time Now() const override {
      return wall_ + absl::FromChrono(std::chrono::steady_clock::now() - monotonic_);
    }

   private:
    const absl::Time wall_ = absl::Now();
    const std::chrono::steady_clock::time_point monotonic_ = std::chrono::steady_clock::now();
  };
  static const RealClock clock;
  return &clock;
}

}  // namespace sessa
