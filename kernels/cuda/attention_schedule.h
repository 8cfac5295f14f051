// How the attention of decode rows is cut up, and in which order its parts are merged.
//
// The result must not depend on what else is in the batch, so the order of additions is fixed by the row's
// own length (and the shape and the card): a unit of 128 tokens has a leaf for each warp, whose tokens are
// interleaved with the others' (decode_items.cuh); the leaves of a unit are merged; then units by fours,
// which are runs, runs by fours, which are sections, and so on, up to the row. Rows of more than kMaxUnits
// have longer units. With little work in a batch ("fine") each leaf goes to another multiprocessor; otherwise
// a unit does, or, as long as there is enough left for all, a run. Which of them merges does not matter.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SESSA_HD __host__ __device__
#else
#define SESSA_HD
#endif

namespace sessa::cuda {

inline constexpr int32_t kBlockTokens = 64;
inline constexpr int32_t kUnitTokens = 128;
inline constexpr int32_t kMaxUnits = 128;  // of a row
inline constexpr int32_t kFanIn = 4;       // parts that are merged at a time
inline constexpr int32_t kRunUnits = kFanIn, kSectionUnits = kFanIn * kRunUnits;
inline constexpr int32_t kMaxLeaves = kFanIn;  // of a unit

// Tokens of a unit of a row that attends to `tokens`; its last unit may have fewer.
SESSA_HD inline int32_t UnitTokens(int32_t tokens) {
  const int32_t units = (tokens + kUnitTokens - 1) / kUnitTokens;
  return (units + kMaxUnits - 1) / kMaxUnits * kUnitTokens;
}

SESSA_HD inline int32_t UnitsOf(int32_t tokens) {
  if (tokens <= 0) return 0;
  const int32_t unit = UnitTokens(tokens);
  return (tokens + unit - 1) / unit;
}

SESSA_HD inline int32_t RunsOf(int32_t units) { return (units + kRunUnits - 1) / kRunUnits; }
SESSA_HD inline int32_t SectionsOf(int32_t units) { return (units + kSectionUnits - 1) / kSectionUnits; }

}  // namespace sessa::cuda
