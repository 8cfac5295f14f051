// Seeds of the simulator. A failing seed prints the command that replays it.
//   simulator_test --seed=N           one seed
//   simulator_test --seeds=N          the first N (default 10,000; 200 under TSan)
#include "tests/scheduler/simulator.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace sessa::toy {
namespace {

uint64_t first_seed = 1;
#if defined(__SANITIZE_THREAD__)
uint64_t seeds = 200;  // one thread: ThreadSanitizer has little to see
#else
uint64_t seeds = 10000;
#endif

TEST(SimulatorTest, EverySeedKeepsEveryPromise) {
  SimulationResult sum;
  for (uint64_t seed = first_seed; seed < first_seed + seeds; ++seed) {
    const SimulationResult r = Simulate(seed);
    ASSERT_EQ(r.failure, "") << "replay with: simulator_test --seed=" << seed;
    sum.turns += r.turns, sum.tokens += r.tokens, sum.steps += r.steps;
    sum.evictions += r.evictions, sum.preemptions += r.preemptions, sum.recomputed += r.recomputed;
    sum.discarded += r.discarded, sum.nonfinite += r.nonfinite, sum.cancelled += r.cancelled;
    sum.expired += r.expired, sum.drained += r.drained, sum.refused += r.refused;
    sum.stop_strings += r.stop_strings, sum.forks += r.forks, sum.branches += r.branches,
        sum.faults += r.faults;
  }
  std::cout << seeds << " seeds: " << sum.turns << " turns, " << sum.tokens << " tokens, " << sum.steps
            << " steps, " << sum.evictions << " evictions, " << sum.preemptions << " preemptions, "
            << sum.recomputed << " tokens recomputed, " << sum.discarded << " discarded, " << sum.nonfinite
            << " not finite, " << sum.cancelled << " cancelled, " << sum.expired << " expired, "
            << sum.drained << " drained, " << sum.refused << " refused, " << sum.stop_strings
            << " stop strings, " << sum.forks << " with n > 1, " << sum.branches << " that read a session, "
            << sum.faults << " lost to a device fault\n";
  if (seeds < 1000) return;
  // The seeds reach every corner.
  for (int64_t count :
       {sum.evictions, sum.preemptions, sum.recomputed, sum.discarded, sum.nonfinite, sum.cancelled,
        sum.expired, sum.drained, sum.refused, sum.stop_strings, sum.forks, sum.branches, sum.faults}) {
    EXPECT_GT(count, 0);
  }
}

}  // namespace
}  // namespace sessa::toy

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    absl::string_view arg = argv[i];
    if (absl::ConsumePrefix(&arg, "--seed=")) {
      if (!absl::SimpleAtoi(arg, &sessa::toy::first_seed)) return 2;
      sessa::toy::seeds = 1;
    } else if (absl::ConsumePrefix(&arg, "--seeds=")) {
      if (!absl::SimpleAtoi(arg, &sessa::toy::seeds)) return 2;
    }
  }
  return RUN_ALL_TESTS();
}
