// FORWARD: causal attention of new rows over pages, with an online softmax.
//
//   o_t,h = sum_{j<=t} 2^(S[t,j] - m) v_j / sum_{j<=t} 2^(S[t,j] - m),   S = q_t,h . k_j,h' d^-1/2 log2(e)
//
// A persistent block takes one piece of work (a tile of query rows, a head) after the other: 64 rows a
// consumer warpgroup. One thread of the last warpgroup copies q, then tiles of 128 positions (two pages) of k
// and v through a ring, and goes on to the next piece while the consumers finish. A consumer keeps S, and the
// weights as bf16, in registers; while the tensor cores multiply a tile's weights with v, it computes the
// next tile's weights. Tiles are visited from the last to the first, so that masking is needed in the first
// ones only.
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
  int work;  // tiles * heads, the longest first
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
  static constexpr int kShared = 2 * kQueryBytes + kStages * 2 * kTileBytes + 1024;
};

template <int kStages>
struct FlashBarriers {
  uint64_t query_full[2], query_empty[2], k_full[kStages], v_full[kStages], k_empty[kStages],
      v_empty[kStages];
};

#if SESSA_HOPPER_CODE

// Where a block is in its sequence of work and of k, v tiles.
template <int kStages>
struct FlashPlace {
  int round = 0;
  int stage = 0;
  uint32_t phase = 0;
  __device__ void NextStage() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
  // The piece of this round: rounds alternate in direction, so that a block with long pieces gets short ones
  // next.
  __device__ int Work() const {
    return round * gridDim.x + (round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
  }
};

__device__ __forceinline__ int FlashTiles(const ForwardTile& at) {
  return (at.position + at.rows + kFlashColumns - 1) / kFlashColumns;
}

// q boxes: [64 rows][64 of d], the halves of d of a group after each other; k, v: [128 positions][64 of d]
// likewise.
template <int kHead, int kGroups>
__device__ __forceinline__ void FlashProduce(const FlashParams& p, uint8_t* queries, uint8_t* ring,
                                             FlashBarriers<FlashShape<kHead, kGroups>::kStages>& barriers) {
  using Shape = FlashShape<kHead, kGroups>;
  FlashPlace<Shape::kStages> place;
  PrefetchMap(&p.q);
  PrefetchMap(&p.k);
  PrefetchMap(&p.v);
  for (; place.round * gridDim.x < p.work; place.round++) {
    const int work = place.Work(), buffer = place.round % 2;
    if (work >= p.work) continue;
    const ForwardTile at = p.tiles[work / p.heads];
    const int head = work % p.heads, column = head / p.heads_per_kv * kHead;
    const int32_t* table = p.page_table + at.page_begin;
    const int last = (at.end - 1) / kPageTokens;
    if (place.round == 0) WaitForPrevious();
    BarrierWait(&barriers.query_empty[buffer], place.round / 2 % 2 ^ 1);
    BarrierExpectBytes(&barriers.query_full[buffer], Shape::kQueryBytes);
    for (int box = 0; box < kGroups * kHead / 64; box++) {
      CopyBox(queries + buffer * Shape::kQueryBytes + box * 64 * 128, &p.q, &barriers.query_full[buffer],
              head * kHead + box % (kHead / 64) * 64, at.first_row + box / (kHead / 64) * 64);
    }
    for (int tile = FlashTiles(at) - 1; tile >= 0; tile--) {
      const int32_t pages[2] = {table[min(2 * tile, last)], table[min(2 * tile + 1, last)]};
      uint8_t* k = ring + place.stage * 2 * Shape::kTileBytes;
      for (int plane = 0; plane < 2; plane++) {
        uint64_t* full = plane == 0 ? &barriers.k_full[place.stage] : &barriers.v_full[place.stage];
        BarrierWait(plane == 0 ? &barriers.k_empty[place.stage] : &barriers.v_empty[place.stage],
                    place.phase ^ 1);
        BarrierExpectBytes(full, Shape::kTileBytes);
        for (int x = 0; x < kHead; x += 64) {
          for (int i = 0; i < 2; i++) {
            CopyBox(k + plane * Shape::kTileBytes + (x / 64 * 2 + i) * 64 * 128, plane == 0 ? &p.k : &p.v,
                    full, column + x, 0, pages[i]);
          }
        }
      }
      place.NextStage();
    }
  }
}

// The thread's two query rows (the second 8 further down): maximum and sum so far.
struct FlashRows {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
};

template <int kHead>
__device__ __forceinline__ void FlashScores(float (&S)[kFlashColumns / 2], uint32_t q, uint32_t k) {
  const Operand queries = RowOperand(q), keys = RowOperand(k);
#pragma unroll
  for (int x = 0; x < kHead; x += 16) {
    WgmmaShared<0>(S, queries.At(x / 64 * 64 * 128 + x % 64 * 2),
                   keys.At(x / 64 * kFlashColumns * 128 + x % 64 * 2), x > 0, __nv_bfloat16());
  }
}

template <int kHead>
__device__ __forceinline__ void FlashValues(float (&O)[kHead / 2], const uint32_t (&P)[kFlashColumns / 4],
                                            uint32_t v) {
  const Operand values = ColumnOperand(v, kFlashColumns * 128);
#pragma unroll
  for (int j = 0; j < kFlashColumns; j += 16) {
    const uint32_t a[4] = {P[j / 4], P[j / 4 + 1], P[j / 4 + 2], P[j / 4 + 3]};
    WgmmaRegisters<1>(O, a, values.At(j * 128), 1, __nv_bfloat16());
  }
}

// Columns that the thread's rows do not see; position: of its first row, column: of the tile's first.
__device__ __forceinline__ void FlashMask(float (&S)[kFlashColumns / 2], int position, int column) {
  const int limit = position + 1 - column - 2 * (threadIdx.x % 4);  // of the first row; the other sees 8 more
#pragma unroll
  for (int j = 0; j < kFlashColumns / 8; j++) {
    if (8 * j >= limit) S[4 * j] = -INFINITY;
    if (8 * j + 1 >= limit) S[4 * j + 1] = -INFINITY;
    if (8 * j >= limit + 8) S[4 * j + 2] = -INFINITY;
    if (8 * j + 1 >= limit + 8) S[4 * j + 3] = -INFINITY;
  }
}

// S becomes the weights 2^(S - m); alpha: what sums over earlier tiles are multiplied with. Both rows at once
// and in several chains each: a warp has no company to hide its latencies behind.
__device__ __forceinline__ void FlashSoftmax(float (&S)[kFlashColumns / 2], FlashRows& rows,
                                             float (&alpha)[2], float scale) {
  float largest[4] = {rows.maximum[0], rows.maximum[0], rows.maximum[1], rows.maximum[1]};
#pragma unroll
  for (int i = 0; i < kFlashColumns / 2; i++) largest[i % 4] = fmaxf(largest[i % 4], S[i]);
  float m[2];
#pragma unroll
  for (int half = 0; half < 2; half++) m[half] = fmaxf(largest[2 * half], largest[2 * half + 1]);
#pragma unroll
  for (int half = 0; half < 2; half++) m[half] = fmaxf(m[half], __shfl_xor_sync(0xffffffffu, m[half], 1));
#pragma unroll
  for (int half = 0; half < 2; half++) m[half] = fmaxf(m[half], __shfl_xor_sync(0xffffffffu, m[half], 2));
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float old = rows.maximum[half];
    rows.maximum[half] = m[half];
    m[half] = m[half] == -INFINITY ? 0 : m[half] * scale;  // a row whose columns are all masked so far
    alpha[half] = Exp2(old * scale - m[half]);
  }
  float sum[4] = {rows.sum[0] * alpha[0], 0, rows.sum[1] * alpha[1], 0};
#pragma unroll
  for (int i = 0; i < kFlashColumns / 2; i++) {
    S[i] = Exp2(S[i] * scale - m[i / 2 % 2]);
    sum[i % 4] += S[i];
  }
  rows.sum[0] = sum[0] + sum[1];
  rows.sum[1] = sum[2] + sum[3];
}

// Keeps what follows behind the computation of two sums of weights: ptxas moves waits for wgmma up across
// arithmetic, which would leave nothing to overlap. Sums are not negative, so nobody sleeps.
__device__ __forceinline__ void HoldUntil(float x, float y) {
  if (x < 0 || y < 0) asm volatile("nanosleep.u32 1;" ::: "memory");
}

// The accumulator's layout is that of the A operand: eight columns of two rows become one register of each.
__device__ __forceinline__ void FlashPack(uint32_t (&P)[kFlashColumns / 4],
                                          const float (&S)[kFlashColumns / 2]) {
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

// o rows of the thread, from sums and their weights.
template <int kHead>
__device__ __forceinline__ void FlashStore(const FlashParams& p, const ForwardTile& at, int head, int row,
                                           const FlashRows& rows, const float (&O)[kHead / 2]) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const bool stored = row + 8 * half < at.rows;
    const float factor = 1 / sum;
    __nv_bfloat16* to =
        p.o + static_cast<int64_t>(at.first_row + row + 8 * half) * p.D + head * kHead + 8 * lane;
#pragma unroll
    for (int j = 0; j < kHead / 8; j += 4) {
      uint32_t packed[4];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const __nv_bfloat162 pair =
            __floats2bfloat162_rn(O[4 * (j + k) + 2 * half] * factor, O[4 * (j + k) + 2 * half + 1] * factor);
        packed[k] = *reinterpret_cast<const uint32_t*>(&pair);
      }
      QuadTranspose(packed);
      if (stored)
        *reinterpret_cast<uint4*>(to + 8 * j) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
    }
  }
}

// One piece of work. kAlternate: the consumers take turns at handing work to the tensor cores, so that one
// computes weights while another multiplies.
template <int kHead, int kGroups, bool kAlternate>
__device__ __forceinline__ void FlashAttend(const FlashParams& p, const ForwardTile& at, int head,
                                            uint8_t* queries, uint8_t* ring,
                                            FlashBarriers<FlashShape<kHead, kGroups>::kStages>& barriers,
                                            FlashPlace<FlashShape<kHead, kGroups>::kStages>& place) {
  using Shape = FlashShape<kHead, kGroups>;
  const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
  const int row = group * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;  // of the tile
  const int position = at.position + row, tiles = FlashTiles(at), buffer = place.round % 2;
  const uint32_t q = SharedAddress(queries) + buffer * Shape::kQueryBytes + group * 64 * kHead * 2;
  const auto keys = [&](int stage) { return SharedAddress(ring + stage * 2 * Shape::kTileBytes); };
  const auto values = [&](int stage) { return keys(stage) + Shape::kTileBytes; };
  float S[kFlashColumns / 2], O[kHead / 2] = {}, alpha[2];
  uint32_t P[kFlashColumns / 4];
  FlashRows rows;

  BarrierWait(&barriers.query_full[buffer], place.round / 2 % 2);
  BarrierWait(&barriers.k_full[place.stage], place.phase);
  WgmmaFence();
  FlashScores<kHead>(S, q, keys(place.stage));
  WgmmaCommit();
  WgmmaWait<0>();
  Pin(S);
  if (lane == 0) BarrierArrive(&barriers.k_empty[place.stage]);
  FlashMask(S, position, (tiles - 1) * kFlashColumns);
  FlashSoftmax(S, rows, alpha, p.scale);
  FlashPack(P, S);
  if (at.end < tiles * kFlashColumns) {
    BarrierWait(&barriers.v_full[place.stage], place.phase);
    FlashClearValues<kHead, kGroups>(ring + place.stage * 2 * Shape::kTileBytes + Shape::kTileBytes,
                                     at.end - (tiles - 1) * kFlashColumns);
  }
  if (kAlternate && group == kGroups - 1 && tiles > 1) NamedBarrierArrive(kTurn, 256);
  for (int tile = tiles - 2; tile >= 0; tile--) {
    const int v_stage = place.stage;
    const uint32_t v_phase = place.phase;
    place.NextStage();
    BarrierWait(&barriers.k_full[place.stage], place.phase);
    if (kAlternate) NamedBarrier(kTurn + group, 256);
    Pin(S);
    Pin(O);
    WgmmaFence();
    FlashScores<kHead>(S, q, keys(place.stage));
    WgmmaCommit();
    BarrierWait(&barriers.v_full[v_stage], v_phase);
    WgmmaFence();
    FlashValues<kHead>(O, P, values(v_stage));
    WgmmaCommit();
    if (kAlternate) NamedBarrierArrive(kTurn + (group + 1) % kGroups, 256);
    WgmmaWait<1>();
    Pin(S);
    if (lane == 0) BarrierArrive(&barriers.k_empty[place.stage]);
    if (position < (tile + 1) * kFlashColumns) FlashMask(S, position, tile * kFlashColumns);
    FlashSoftmax(S, rows, alpha, p.scale);
    HoldUntil(rows.sum[0], rows.sum[1]);
    WgmmaWait<0>();
    Pin(O);
    if (lane == 0) BarrierArrive(&barriers.v_empty[v_stage]);
#pragma unroll
    for (int i = 0; i < kHead / 2; i++) O[i] *= alpha[i / 2 % 2];
    FlashPack(P, S);
  }
  if (lane == 0) BarrierArrive(&barriers.query_empty[buffer]);
  if (kAlternate && group == 0 && tiles > 1) NamedBarrier(kTurn, 256);  // the last turn given is taken
  BarrierWait(&barriers.v_full[place.stage], place.phase);
  Pin(O);
  WgmmaFence();
  FlashValues<kHead>(O, P, values(place.stage));
  WgmmaCommit();
  WgmmaWait<0>();
  Pin(O);
  if (lane == 0) BarrierArrive(&barriers.v_empty[place.stage]);
  place.NextStage();
  FlashStore<kHead>(p, at, head, row, rows, O);
}

template <int kHead, int kGroups, bool kAlternate>
__device__ __forceinline__ void FlashConsume(const FlashParams& p, uint8_t* queries, uint8_t* ring,
                                             FlashBarriers<FlashShape<kHead, kGroups>::kStages>& barriers) {
  FlashPlace<FlashShape<kHead, kGroups>::kStages> place;
  WaitForPrevious();
  for (; place.round * gridDim.x < p.work; place.round++) {
    const int work = place.Work();
    if (work >= p.work) continue;
    const ForwardTile at = p.tiles[work / p.heads];
    FlashAttend<kHead, kGroups, kAlternate>(p, at, work % p.heads, queries, ring, barriers, place);
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
  uint8_t* ring = queries + 2 * Shape::kQueryBytes;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; i++) {
      BarrierInit(&barriers.query_full[i], 1);
      BarrierInit(&barriers.query_empty[i], kGroups * 4);
    }
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
  if (threadIdx.x >= kGroups * 128) {
    ShrinkRegisters<(kGroups == 3 ? 32 : 40)>();
    if (threadIdx.x == kGroups * 128) {
      FlashProduce<kHead, kGroups>(p, queries, ring, barriers);
    } else {
      WaitForPrevious();
    }
  } else {
    GrowRegisters<(kGroups == 3 ? 160 : 232)>();
    FlashConsume<kHead, kGroups, kAlternate>(p, queries, ring, barriers);
  }
#else
  __trap();
#endif
}

template <int kHead, int kGroups, bool kAlternate>
cudaError_t LaunchFlash(const FlashParams& params, int multiprocessors, cudaStream_t stream) {
  using Shape = FlashShape<kHead, kGroups>;
  static const cudaError_t configured = cudaFuncSetAttribute(
      FlashKernel<kHead, kGroups, kAlternate>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kShared);
  if (configured != cudaSuccess) return configured;
  const int blocks = params.work < multiprocessors ? params.work : multiprocessors;
  return LaunchOverlapped(FlashKernel<kHead, kGroups, kAlternate>, blocks, Shape::kThreads, Shape::kShared,
                          stream, params);
}

}  // namespace sessa::cuda
