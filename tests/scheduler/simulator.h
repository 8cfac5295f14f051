// Seeded simulation of scheduler, engine and emitter on one thread: random configuration, random clients,
// random order of the threads' work, a fake clock and the toy backend. A seed gives the same run every time.
#pragma once

#include <cstdint>
#include <string>

namespace sessa::toy {

struct SimulationResult {
  std::string failure;  // empty: every promise was kept
  // What happened, so that a test can see that the seeds reach everything.
  int64_t turns = 0, tokens = 0, steps = 0;
  int64_t evictions = 0, preemptions = 0, recomputed = 0, discarded = 0, nonfinite = 0;
  int64_t cancelled = 0, expired = 0, drained = 0, refused = 0, stop_strings = 0, forks = 0, branches = 0,
          faults = 0;
};

// Checked: every accepted request gets exactly one terminal event, within a bound; tokens, text,
// log-probabilities and ends are those of the toy model for that session alone; positions add up; pages are
// all accounted for and free at the end; nothing that was discarded is counted.
SimulationResult Simulate(uint64_t seed);

}  // namespace sessa::toy
