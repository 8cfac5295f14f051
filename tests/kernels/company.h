// The equality that the host backends promise: what a session computes does not depend, in any bit, on which
// other sessions share its steps, on how its tokens are cut into steps, or on state that was dropped and
// computed again.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/ops.h"

namespace sessa {

struct CompanyOptions {
  int32_t sessions = 5;
  int32_t max_tokens = 200;  // of a session
  int32_t cpu_threads = 1;   // of the run in company; alone there is one thread
  StateDtype state_dtype = StateDtype::kF32;
  bool truncations = true;  // cut sessions back at random and compute them again
};

// Random sessions of a random model, each run alone in one step, then all together in a random schedule.
// Returns what differs, with the seed; empty when logits and state agree bit for bit.
std::string CompanyDifference(CreateOpsFn create, const ModelShape& shape, const CompanyOptions& options,
                              uint32_t seed);

}  // namespace sessa
