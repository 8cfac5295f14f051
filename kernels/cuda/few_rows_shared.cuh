// Shared memory of the few-rows kernel, and what its parts have in common.
#pragma once

#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/decode_gemm.cuh"
#include "kernels/cuda/decode_softmax.cuh"
#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/mailbox.cuh"

namespace sessa::cuda {

inline constexpr int kFewThreads = kStrands * 32;
static_assert(kFewRows <= kStrands);  // a warp for each row
inline constexpr int kTileRows = 8;   // of a tensor-core tile
inline constexpr int kGroup = 8;      // outputs of a linear layer, half of a tensor-core tile
inline constexpr int kFewTiles = 2;   // tiles of 16 outputs of the projections that a block of threads makes
inline constexpr int kFewOutputs = 16 * kFewTiles;
inline constexpr int kStretch = 16;      // tokens
inline constexpr int kOpenStretch = 8;   // ... in the reader's own block, where s is float32
inline constexpr int kSlots = 2;         // stretches of state in shared memory
inline constexpr int kFewColumns = 256;  // of k and v that an item of the forward attention takes
inline constexpr int kMaxLeafHeads = kFewColumns / 8 * 4;
inline constexpr int kMaxBlockItems = 48;  // of a block of threads

// Partial sums of a linear layer: [strand][row][output], padded.
using Strands = float[kStrands][kTileRows][18];

// The input of a linear layer and its partial sums. Rows are padded so that eight lanes hit all banks.
template <int V>
struct LinearMemory {
  static constexpr int kPitch = V * 256 + 32;
  bf16 x[kFewRows][kPitch];
  Strands strands[kFewTiles];
};

struct AttentionMemory {
  float query[1024];                      // scaled
  float scores[kMaxLeafHeads][16];        // of a stretch
  float2 weights[kMaxLeafHeads][16 + 1];  // what to multiply by before a token, and its weight
  float max[kMaxLeafHeads];               // of a leaf so far
};

inline constexpr int kMergeItems = 2 * kFewUnits * kMaxLeaves;
struct MergeMemory {
  float items[kMergeItems][kGroup + 2];  // accumulator of this block's columns, maximum, sum; feedback first
  float2 sums[2][kMergeItems];           // maximum, sum; of two levels, at a part's first item
};

// A leaf (attention_schedule.h).
struct FewRowsItem {
  int32_t index;              // of both attentions' items, feedback first
  int32_t first, open_first;  // tokens: of its unit, and of the unit's part in the reader's own block
  int32_t closed, open;       // how many tokens of these parts are the leaf's
  int32_t leaf;               // of its unit
  int16_t row, forward;
  int16_t first_column, first_head;  // forward: of 256 of k and v; of the query heads of their key heads
};

template <int V>  // vectors of 8 columns of the model's width that a lane takes
struct FewRowsMemory {
  static constexpr int kRowBytes = V * 512;  // of kb; s may be float32
  static constexpr int kSlotBytes = kStretch * 2 * kRowBytes;
  static constexpr int kWeightPitch = V * 256 + 32;
  union {
    char ring[kSlots][kSlotBytes];
    MergeMemory merge;
  };
  bf16 project[kFewOutputs][kWeightPitch];  // this block's weights, of this layer or the next
  union {
    LinearMemory<V> linear;
    AttentionMemory attention;
  };
  float x[kFewRows][kGroup];    // this block's columns of the residual stream
  float g[kFewRows][kGroup];    // ... of the gate
  float ctx[kFewRows][kGroup];  // ... of the feedback's result
  float gamma[kFewRows];
  RowMeta rows[kFewRows];
  int32_t own_pages[kFewRows];  // of their own tokens
  int32_t feedback_first[kFewRows + 1], forward_first[kFewRows + 1];
  FewRowsItem items[kMaxBlockItems];  // this block's, the same in all layers
  int32_t item_count;
  int32_t merge_chunk, merge_column, merge_sums;  // where this block's columns of o are in forward items
  FewRowsLayer layers[2];                         // this one and the next
  uint64_t arrived[kSlots];                       // barriers of the ring
  uint64_t project_arrived;
};

// Where a pass stands; the same in all threads.
struct FewRowsPass {
  int rows;         // live
  uint32_t epoch;   // of this layer
  uint32_t parity;  // of the ring's barriers, a bit each
};

__device__ __forceinline__ float LoadConstant(const float* at) {
  float x;
  asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(x) : "l"(at));
  return x;
}
__device__ __forceinline__ float2 LoadConstantPair(const float* at) {
  float2 x;
  asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"(at));
  return x;
}

__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

}  // namespace sessa::cuda
