// Shared memory of the few-rows kernel, and what its parts have in common.
#pragma once

#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/decode_gemm.cuh"
#include "kernels/cuda/decode_softmax.cuh"
#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/mailbox.cuh"

namespace sessa::cuda {

inline constexpr int kFewThreads = kStrands * 32;   // that compute
inline constexpr int kFewBlock = kFewThreads + 32;  // and a warp that copies weights and state ahead of them
inline constexpr int kReleases = MeetingArrivals(kFewThreads);  // what frees memory for the next copy
inline constexpr int kStrandColumns = kAhead * kChunk;          // of K that a warp takes, at most
static_assert(kStrandColumns == 32 * 4);                        // four columns a lane
static_assert(kFewRows == 2);  // in the first lane of a quad, which alone stores sums of a tensor-core tile
inline constexpr int kGroup = 8;     // outputs of a linear layer, half of a tensor-core tile
inline constexpr int kFewTiles = 2;  // tiles of 16 outputs of the projections that a block of threads makes
inline constexpr int kFewOutputs = 16 * kFewTiles;
inline constexpr int kHeadOutputs = 16;  // of the logits, that a block makes at a time
inline constexpr int kHeadSlots = 5;     // for their weights: two in `weights`, three in `ring`
inline constexpr int kHeadLayers = 3;    // the last ones, which bring the first of them to the L2 cache
inline constexpr int kStretch = 16;      // tokens
inline constexpr int kOpenStretch = 8;   // ... in the reader's own block, where s is float32
inline constexpr int kSlots = 2;         // stretches of state in shared memory
inline constexpr int kFewColumns = 256;  // of k and v that an item of the forward attention takes
inline constexpr int kMaxLeafHeads = kFewColumns / 8 * 4;
inline constexpr int kMaxBlockItems = 48;  // of a block of threads
inline constexpr int kMaxStretches = 4 * kMaxBlockItems;

// Partial sums of a tile of a linear layer: [strand][row][output], padded.
using Strands = float[kStrands][kFewRows][18];

// The input of a linear layer, of which each warp has its own strand, and its partial sums. Those of one
// product may still be read while warps ahead are in the next.
template <int V>
struct LinearMemory {
  float residual[kFewRows][V * 256];  // x before LayerNorm
  bf16 x[kFewRows][V * 256 + 32];
  Strands in, project[kFewTiles], out, residual_out, head[2];
};

struct AttentionMemory {
  float query[2][512];                    // scaled; the first four of every eight columns, then the last four
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
  // This block's weights: those of the projections, else of out_proj and W_out in the first rows and of W_in
  // in the others. Padded so that eight lanes hit all banks.
  bf16 weights[kFewOutputs][kWeightPitch];
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
  uint32_t stretches[kMaxStretches];              // of all items, one after the other (few_rows_items.cuh)
  int32_t stretch_count;
  FewRowsLayer layers[2];  // this one and the next
  // Of the slots of the ring and of the halves of `weights`: what was copied is there; nobody needs it any
  // more (few_rows_copies.cuh).
  CopyBarrier arrived[kSlots], slot_free[kSlots], weights_full[2], weights_free[2];
  CopyBarrier head_full[kHeadSlots], head_free[kHeadSlots];
};
inline constexpr int kOutHalf = 0, kInHalf = 1;  // of `weights`

// Of the warps that compute.
__device__ __forceinline__ void SyncComputing() {
  asm volatile("bar.sync 1, %0;" ::"n"(kFewThreads) : "memory");
}
__device__ __forceinline__ bool IsCopying() { return threadIdx.x >= kFewThreads; }

__device__ __forceinline__ int OwnColumn() { return static_cast<int>(blockIdx.x) * kGroup; }
__device__ __forceinline__ bool IsOwner(const FewRowsParams& p) { return OwnColumn() < p.width; }

// First of output group `i` of this block's projections, which are dealt out one by one.
__device__ __forceinline__ int ProjectGroup(int i) {
  return static_cast<int>(blockIdx.x + i * gridDim.x) * kGroup;
}

// First output of tile `i` of the logits, which are dealt out one by one, too.
__device__ __forceinline__ int HeadTile(int i) {
  return static_cast<int>(blockIdx.x + i * gridDim.x) * kHeadOutputs;
}
template <int V>
__device__ __forceinline__ auto HeadWeights(FewRowsMemory<V>& m, int slot) {
  using Row = bf16[FewRowsMemory<V>::kWeightPitch];
  constexpr int kFirst = kFewOutputs / kHeadOutputs;  // slots in `weights`
  static_assert((kHeadSlots - kFirst) * kHeadOutputs * sizeof(Row) <= sizeof(m.ring));
  return slot < kFirst ? m.weights + slot * kHeadOutputs
                       : reinterpret_cast<Row*>(m.ring[0]) + (slot - kFirst) * kHeadOutputs;
}

// Words of the mailboxes of x, and of abar, o and u, where a word has two columns. Eight columns, which are a
// block's, have 128 bytes of their own: with several blocks' in one line a hand-over took a sixth longer.
__device__ __forceinline__ int WordOf(int row, int column) {
  return column / kGroup * kFewLine + row * kGroup + column % kGroup;
}
__device__ __forceinline__ int PairWord(int row, int column) {
  return column / kGroup * kFewLine + row * (kGroup / 2) + column % kGroup / 2;
}

// Where a pass stands; the same in all threads.
struct FewRowsPass {
  int rows;         // live
  uint32_t epoch;   // of this layer
  uint32_t parity;  // of arrived, a bit each
  float2 turn;      // the angle of this thread's outputs of the projections, if RoPE turns them
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
