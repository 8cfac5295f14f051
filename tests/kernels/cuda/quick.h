// Whether tests on the card are to do less: SESSA_CUDA_QUICK is set. tools/sanitize_gpu sets it, because
// racecheck makes kernels hundreds of times slower; all of them still run, around the same edges, fewer
// times.
#pragma once

#include <cstdlib>

namespace sessa {

inline bool Quick() { return std::getenv("SESSA_CUDA_QUICK") != nullptr; }

}  // namespace sessa
