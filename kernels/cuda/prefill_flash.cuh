// FORWARD: causal attention of new rows over pages, with an online softmax.
//
//   o_t,h = sum_{j<=t} 2^(S[t,j] - m) v_j / sum_{j<=t} 2^(S[t,j] - m),   S = q_t,h . k_j,h' d^-1/2 log2(e)
//
// A block computes 64 query rows of one head a consumer warpgroup. One thread of the last warpgroup copies q once,
// then tiles of 128 positions (two pages) of k and v through a ring. A consumer keeps S, and the weights as bf16,
// in registers; while the tensor cores multiply a tile's weights with v, it computes the next tile's weights.
// Tiles are visited from the last to the first, so that masking is needed in the first ones only.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/prefill_hopper.cuh"
#include "kernels/cuda/prefill_maps.h"
#include "kernels/cuda/prefill_overlap.cuh"
#include "kernels/cuda/prefill_tables.h"
#include "kernels/cuda/prefill_wgmma.cuh"

namespace sessa::cuda {

inline constexpr int kFlashColumns = 128;  // positions of a tile
inline constexpr int kTurn = 2;            // named barrier of the first consumer's turn

struct FlashParams {
  CUtensorMap q, k, v;
  const ForwardTile* tiles;
  const DeviceSegment* segments;
  const int32_t* page_table;
  __nv_bfloat16* o;
  int heads, heads_per_kv, D;
  float scale;  // log2(e) d^-1/2
};

template <int kHead, int kGroups>
struct FlashShape {
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kStages = kHead == 64 ? 4 : 2;
  static constexpr int kQueryBytes = kRows * kHead * 2;
  static constexpr int kTileBytes = kFlashColumns * kHead * 2;  // of k; and of v
  static constexpr int kShared = kQueryBytes + kStages * 2 * kTileBytes + 1024;
};

template <int kStages>
struct FlashBarriers {
  uint64_t query, k_full[kStages], v_full[kStages], k_empty[kStages], v_empty[kStages];
};

#if SESSA_HOPPER_CODE

// q boxes: [64 rows][64 of d], the halves of d of a group after each other; k, v: [128 positions][64 of d] likewise.
template <int kHead, int kGroups>
__device__ __forceinline__ void FlashProduce(const FlashParams& p, const DeviceSegment& segment, int row, int head,
                                             int tiles, uint8_t* queries, uint8_t* ring,
                                             FlashBarriers<FlashShape<kHead, kGroups>::kStages>& barriers) {
  using Shape = FlashShape<kHead, kGroups>;
  BarrierExpectBytes(&barriers.query, Shape::kQueryBytes);
  for (int group = 0; group < kGroups; group++) {
    for (int x = 0; x < kHead; x += 64) {
      CopyBox(queries + (group * (kHead / 64) + x / 64) * kFlashColumns / 2 * 128, &p.q, &barriers.query,
              head * kHead + x, segment.first_row + row + 64 * group);
    }
  }
  const int last = (segment.start + segment.rows - 1) / kPageTokens;
  const int column = head / p.heads_per_kv * kHead;
  int stage = 0;
  uint32_t phase = 0;
  for (int tile = tiles - 1; tile >= 0; tile--) {
    int32_t pages[2];
    for (int i = 0; i < 2; i++) pages[i] = p.page_table[segment.page_begin + min(2 * tile + i, last)];
    uint8_t* k = ring + stage * 2 * Shape::kTileBytes;
    for (int plane = 0; plane < 2; plane++) {
      uint64_t* full = plane == 0 ? &barriers.k_full[stage] : &barriers.v_full[stage];
      BarrierWait(plane == 0 ? &barriers.k_empty[stage] : &barriers.v_empty[stage], phase ^ 1);
      BarrierExpectBytes(full, Shape::kTileBytes);
      for (int x = 0; x < kHead; x += 64) {
        for (int i = 0; i < 2; i++) {
          CopyBox(k + plane * Shape::kTileBytes + (x / 64 * 2 + i) * 64 * 128, plane == 0 ? &p.k : &p.v, full,
                  column + x, 0, pages[i]);
        }
      }
    }
    if (++stage == Shape::kStages) stage = 0, phase ^= 1;
  }
}

// The thread's two query rows (the second 8 further down): maximum and sum so far.
struct FlashRows {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
};

template <int kHead>
__device__ __forceinline__ void FlashScores(float (&S)[kFlashColumns / 2], uint32_t q, uint32_t k) {
#pragma unroll
  for (int x = 0; x < kHead; x += 16) {
    WgmmaShared<0>(S, RowDescriptor(q + x / 64 * 64 * 128 + x % 64 * 2),
                   RowDescriptor(k + x / 64 * kFlashColumns * 128 + x % 64 * 2), x > 0, __nv_bfloat16());
  }
}

template <int kHead>
__device__ __forceinline__ void FlashValues(float (&O)[kHead / 2], const uint32_t (&P)[kFlashColumns / 4], uint32_t v) {
#pragma unroll
  for (int j = 0; j < kFlashColumns; j += 16) {
    const uint32_t a[4] = {P[j / 4], P[j / 4 + 1], P[j / 4 + 2], P[j / 4 + 3]};
    WgmmaRegisters<1>(O, a, ColumnDescriptor(v + j * 128, kFlashColumns * 128), 1, __nv_bfloat16());
  }
}

// S becomes the weights 2^(S - m); alpha: what sums over earlier tiles are multiplied with. position: of the
// thread's first row; column: of the tile.
__device__ __forceinline__ void FlashSoftmax(float (&S)[kFlashColumns / 2], FlashRows& rows, float (&alpha)[2],
                                             float scale, int position, int column) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int limit = position + 8 * half + 1 - column;  // columns of the tile that the row sees
    if (limit < kFlashColumns) {
#pragma unroll
      for (int j = 0; j < kFlashColumns / 8; j++) {
        const int at = 8 * j + 2 * (threadIdx.x % 4);
        if (at >= limit) S[4 * j + 2 * half] = -INFINITY;
        if (at + 1 >= limit) S[4 * j + 2 * half + 1] = -INFINITY;
      }
    }
    float largest = rows.maximum[half];
#pragma unroll
    for (int j = 0; j < kFlashColumns / 8; j++) {
      largest = fmaxf(largest, fmaxf(S[4 * j + 2 * half], S[4 * j + 2 * half + 1]));
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    const float m = largest == -INFINITY ? 0 : largest * scale;  // a row whose columns are all masked so far
    alpha[half] = Exp2(rows.maximum[half] * scale - m);
    rows.maximum[half] = largest;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kFlashColumns / 8; j++) {
      float& a = S[4 * j + 2 * half];
      float& b = S[4 * j + 2 * half + 1];
      a = Exp2(a * scale - m);
      b = Exp2(b * scale - m);
      sum += a + b;
    }
    rows.sum[half] = rows.sum[half] * alpha[half] + sum;
  }
}

// The accumulator's layout is that of the A operand: eight columns of two rows become one register of each.
__device__ __forceinline__ void FlashPack(uint32_t (&P)[kFlashColumns / 4], const float (&S)[kFlashColumns / 2]) {
#pragma unroll
  for (int i = 0; i < kFlashColumns / 4; i++) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(S[2 * i], S[2 * i + 1]);
    P[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// v rows beyond the session's end: weights there are zero, but what is in the page may be no number.
template <int kHead, int kGroups>
__device__ __forceinline__ void FlashClearValues(uint8_t* v, int first_row) {
  for (int i = threadIdx.x; i < kHead / 64 * (kFlashColumns - first_row) * 8; i += kGroups * 128) {
    const int row = first_row + i / 8 % (kFlashColumns - first_row);
    const int half = i / 8 / (kFlashColumns - first_row);
    reinterpret_cast<uint4*>(v + (half * kFlashColumns + row) * 128)[i % 8] = make_uint4(0, 0, 0, 0);
  }
  FenceSharedWrites();
  NamedBarrier(1, kGroups * 128);
}

// kAlternate: the consumers take turns at handing work to the tensor cores, so that one computes weights while
// another multiplies.
template <int kHead, int kGroups, bool kAlternate>
__device__ __forceinline__ void FlashConsume(const FlashParams& p, const DeviceSegment& segment, int row, int head,
                                             int tiles, uint8_t* queries, uint8_t* ring,
                                             FlashBarriers<FlashShape<kHead, kGroups>::kStages>& barriers) {
  using Shape = FlashShape<kHead, kGroups>;
  const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
  const int my_row = row + group * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;  // of the segment
  const int position = segment.start + my_row;
  const int end = segment.start + segment.rows;
  const uint32_t q = SharedAddress(queries) + group * 64 * kHead * 2;
  float S[kFlashColumns / 2], O[kHead / 2] = {}, alpha[2];
  uint32_t P[kFlashColumns / 4];
  FlashRows rows;
  int stage = 0;
  uint32_t phase = 0;

  BarrierWait(&barriers.query, 0);
  BarrierWait(&barriers.k_full[0], 0);
  WgmmaFence();
  FlashScores<kHead>(S, q, SharedAddress(ring));
  WgmmaCommit();
  WgmmaWait<0>();
  Pin(S);
  if (lane == 0) BarrierArrive(&barriers.k_empty[0]);
  FlashSoftmax(S, rows, alpha, p.scale, position, (tiles - 1) * kFlashColumns);
  FlashPack(P, S);
  if (end < tiles * kFlashColumns) {
    BarrierWait(&barriers.v_full[0], 0);
    FlashClearValues<kHead, kGroups>(ring + Shape::kTileBytes, end - (tiles - 1) * kFlashColumns);
  }
  if (kAlternate && group == kGroups - 1 && tiles > 1) NamedBarrierArrive(kTurn, 256);
  const auto values = [&](int at) {
    return SharedAddress(ring + at * 2 * Shape::kTileBytes + Shape::kTileBytes);
  };
  for (int tile = tiles - 2; tile >= 0; tile--) {
    const int v_stage = stage;
    const uint32_t v_phase = phase;
    if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    BarrierWait(&barriers.k_full[stage], phase);
    if (kAlternate) NamedBarrier(kTurn + group, 256);
    Pin(S);
    Pin(O);
    WgmmaFence();
    FlashScores<kHead>(S, q, SharedAddress(ring + stage * 2 * Shape::kTileBytes));
    WgmmaCommit();
    BarrierWait(&barriers.v_full[v_stage], v_phase);
    WgmmaFence();
    FlashValues<kHead>(O, P, values(v_stage));
    WgmmaCommit();
    if (kAlternate) NamedBarrierArrive(kTurn + (group + 1) % kGroups, 256);
    WgmmaWait<1>();
    Pin(S);
    if (lane == 0) BarrierArrive(&barriers.k_empty[stage]);
    FlashSoftmax(S, rows, alpha, p.scale, position, tile * kFlashColumns);
    WgmmaWait<0>();
    Pin(O);
    if (lane == 0) BarrierArrive(&barriers.v_empty[v_stage]);
#pragma unroll
    for (int i = 0; i < kHead / 2; i++) O[i] *= alpha[i / 2 % 2];
    FlashPack(P, S);
  }
  if (kAlternate && group == 0 && tiles > 1) NamedBarrier(kTurn, 256);  // the last turn given is taken
  BarrierWait(&barriers.v_full[stage], phase);
  Pin(O);
  WgmmaFence();
  FlashValues<kHead>(O, P, values(stage));
  WgmmaCommit();
  WgmmaWait<0>();
  Pin(O);

#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (my_row + 8 * half >= segment.rows) continue;
    const float factor = 1 / sum;
    __nv_bfloat16* to = p.o + static_cast<int64_t>(segment.first_row + my_row + 8 * half) * p.D + head * kHead;
#pragma unroll
    for (int j = 0; j < kHead / 8; j++) {
      *reinterpret_cast<__nv_bfloat162*>(to + 8 * j + 2 * (lane % 4)) =
          __floats2bfloat162_rn(O[4 * j + 2 * half] * factor, O[4 * j + 2 * half + 1] * factor);
    }
  }
}

#endif  // SESSA_HOPPER_CODE

template <int kHead, int kGroups, bool kAlternate>
__global__ void __launch_bounds__(FlashShape<kHead, kGroups>::kThreads, 1)
    FlashKernel(const __grid_constant__ FlashParams p) {
#if SESSA_HOPPER_CODE
  using Shape = FlashShape<kHead, kGroups>;
  extern __shared__ uint8_t shared[];
  __shared__ FlashBarriers<Shape::kStages> barriers;
  uint8_t* queries = shared + ((1024 - SharedAddress(shared) % 1024) % 1024);
  uint8_t* ring = queries + Shape::kQueryBytes;
  const ForwardTile at = p.tiles[blockIdx.x / p.heads];
  const DeviceSegment& segment = p.segments[at.segment];
  const int head = blockIdx.x % p.heads;
  const int columns = segment.start + min(at.row + Shape::kRows, segment.rows);
  const int tiles = (columns + kFlashColumns - 1) / kFlashColumns;
  if (threadIdx.x == 0) {
    BarrierInit(&barriers.query, 1);
    for (int i = 0; i < Shape::kStages; i++) {
      BarrierInit(&barriers.k_full[i], 1);
      BarrierInit(&barriers.v_full[i], 1);
      BarrierInit(&barriers.k_empty[i], kGroups * 4);
      BarrierInit(&barriers.v_empty[i], kGroups * 4);
    }
    BarrierInitFence();
  }
  __syncthreads();
  AllowNext();
  WaitForPrevious();
  if (threadIdx.x >= kGroups * 128) {
    ShrinkRegisters<24>();
    if (threadIdx.x == kGroups * 128) {
      FlashProduce<kHead, kGroups>(p, segment, at.row, head, tiles, queries, ring, barriers);
    }
  } else {
    GrowRegisters<(kGroups == 3 ? 160 : 240)>();
    FlashConsume<kHead, kGroups, kAlternate>(p, segment, at.row, head, tiles, queries, ring, barriers);
  }
#else
  __trap();
#endif
}

template <int kHead, int kGroups, bool kAlternate>
cudaError_t LaunchFlash(const FlashParams& params, int tiles, cudaStream_t stream) {
  using Shape = FlashShape<kHead, kGroups>;
  static const cudaError_t configured = cudaFuncSetAttribute(
      FlashKernel<kHead, kGroups, kAlternate>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kShared);
  if (configured != cudaSuccess) return configured;
  return LaunchOverlapped(FlashKernel<kHead, kGroups, kAlternate>, tiles * params.heads, Shape::kThreads,
                          Shape::kShared, stream, params);
}

}  // namespace sessa::cuda
