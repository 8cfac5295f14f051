// How the attention of decode rows is cut into items, each the work of one warp.
//
// The result must not depend on what else is in the batch, so the order of additions is fixed by the row's
// own length alone: leaves of 16 tokens; the leaves of an item merged one by one, ascending; the items of a
// row merged by attention_merge.cu. An item is one block of 64 tokens, or more in long contexts so that a row
// has at most kMaxItems of them. With little work in a batch ("fine") each leaf is a warp's work and the
// merge kernel does what the warp would have done, in the same order.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SESSA_HD __host__ __device__
#else
#define SESSA_HD
#endif

namespace sessa::cuda {

inline constexpr int32_t kLeafTokens = 16;
inline constexpr int32_t kBlockTokens = 64;
inline constexpr int32_t kLeavesPerBlock = kBlockTokens / kLeafTokens;
inline constexpr int32_t kMaxItems = 128;     // of a row, in whole blocks
inline constexpr int32_t kMaxFineUnits = 64;  // blocks of the longest row of a fine batch

SESSA_HD inline int32_t BlocksOf(int32_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }
// Blocks of an item of a row that attends to `tokens`.
SESSA_HD inline int32_t BlocksPerItem(int32_t tokens) {
  return (BlocksOf(tokens) + kMaxItems - 1) / kMaxItems;
}

SESSA_HD inline int32_t ItemsOf(int32_t tokens, bool fine) {
  if (tokens <= 0) return 0;
  if (fine) return (tokens + kLeafTokens - 1) / kLeafTokens;
  const int32_t per_item = BlocksPerItem(tokens);
  return (BlocksOf(tokens) + per_item - 1) / per_item;
}

// Tokens of an item.
SESSA_HD inline int32_t ItemTokens(int32_t tokens, bool fine) {
  return fine ? kLeafTokens : BlocksPerItem(tokens) * kBlockTokens;
}

}  // namespace sessa::cuda
