// FORWARD: causal attention of new rows over pages, with an online softmax.
//
//   o_t,h = sum_{j<=t} 2^(S[t,j] - m) v_j / sum_{j<=t} 2^(S[t,j] - m),   S = q_t,h . k_j,h' d^-1/2 log2(e)
//
// A persistent block takes one piece of work (a tile of query rows, a head) after the other: 64 rows a
// consumer warpgroup. One thread of the last warpgroup copies q, then tiles of k and v (two pages) through a
// ring, and goes on to the next piece while the consumers finish. A consumer keeps S, and the weights as
// bf16, in registers; while the tensor cores multiply a tile's weights with v, they already have the next
// tile's q k^T. Tiles are visited from the last to the first, so that masking is needed in the first ones
// only.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/prefill_hopper.cuh"
#include "kernels/cuda/prefill_maps.h"
#include "kernels/cuda/prefill_overlap.cuh"
#include "kernels/cuda/prefill_tables.h"
#include "kernels/cuda/prefill_wgmma.cuh"

namespace sessa::cuda {

struct FlashParams {
  CUtensorMap q, k, v;
  const ForwardTile* tiles;
  int work;  // tiles * heads, the longest first
  const int32_t* page_table;
  __nv_bfloat16* o;
  int heads, heads_per_kv, D;
  float scale;  // log2(e) d^-1/2
};

// kHead: d. kGroups: consumer warpgroups. kColumns: positions of a tile.
template <int kHead_>
struct FlashShape {
  static constexpr int kHead = kHead_, kGroups = 2, kColumns = 128;
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kStages = kHead == 64 ? 4 : 2;
  static constexpr int kQueryBytes = kRows * kHead * 2;
  static constexpr int kTileBytes = kColumns * kHead * 2;  // of k; and of v
  static constexpr int kShared = 2 * kQueryBytes + kStages * 2 * kTileBytes + 1024;
  using Scores = float[kColumns / 2];
  using Weights = uint32_t[kColumns / 4];
  using Sums = float[kHead / 2];
};

template <class Shape>
struct FlashBarriers {
  uint64_t query_full[2], query_empty[2];
  uint64_t k_full[Shape::kStages], v_full[Shape::kStages];
  uint64_t k_empty[Shape::kStages], v_empty[Shape::kStages];
};

#if SESSA_HOPPER_CODE

// Where a block is in its sequence of work and of k, v tiles.
template <class Shape>
struct FlashPlace {
  int round = 0;
  int stage = 0;
  uint32_t phase = 0;

  __device__ void NextStage() {
    if (++stage == Shape::kStages) stage = 0, phase ^= 1;
  }
  // The piece of this round. Pieces get shorter: rounds alternate in direction, so that whoever had a long
  // one gets a short one next.
  __device__ int Work() const {
    return round * gridDim.x + (round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
  }
};

template <class Shape>
__device__ __forceinline__ int FlashTiles(const ForwardTile& at) {
  return (at.position + at.rows + Shape::kColumns - 1) / Shape::kColumns;
}

// q boxes: [64 rows][64 of d], the halves of d of a group after each other; k, v: [positions][64 of d]
// likewise.
template <class Shape>
__device__ __forceinline__ void FlashProduce(const FlashParams& p, uint8_t* queries, uint8_t* ring,
                                             FlashBarriers<Shape>& barriers) {
  constexpr int kHalves = Shape::kHead / 64, kPages = Shape::kColumns / kPageTokens;
  FlashPlace<Shape> place;
  PrefetchMap(&p.q);
  PrefetchMap(&p.k);
  PrefetchMap(&p.v);
  for (; place.round * gridDim.x < p.work; place.round++) {
    const int work = place.Work(), buffer = place.round % 2;
    if (work >= p.work) continue;
    const ForwardTile at = p.tiles[work / p.heads];
    const int head = work % p.heads, column = head / p.heads_per_kv * Shape::kHead;
    const int32_t* table = p.page_table + at.page_begin;
    const int last = (at.end - 1) / kPageTokens;
    if (place.round == 0) WaitForPrevious();
    BarrierWait(&barriers.query_empty[buffer], place.round / 2 % 2 ^ 1);
    BarrierExpectBytes(&barriers.query_full[buffer], Shape::kQueryBytes);
    for (int box = 0; box < Shape::kGroups * kHalves; box++) {
      CopyBox(queries + buffer * Shape::kQueryBytes + box * 64 * 128, &p.q, &barriers.query_full[buffer],
              head * Shape::kHead + box % kHalves * 64, at.first_row + box / kHalves * 64);
    }
    for (int tile = FlashTiles<Shape>(at) - 1; tile >= 0; tile--) {
      int32_t pages[kPages];
      for (int i = 0; i < kPages; i++) pages[i] = table[min(kPages * tile + i, last)];
      uint8_t* k = ring + place.stage * 2 * Shape::kTileBytes;
      for (int plane = 0; plane < 2; plane++) {
        uint64_t* full = plane == 0 ? &barriers.k_full[place.stage] : &barriers.v_full[place.stage];
        BarrierWait(plane == 0 ? &barriers.k_empty[place.stage] : &barriers.v_empty[place.stage],
                    place.phase ^ 1);
        BarrierExpectBytes(full, Shape::kTileBytes);
        for (int half = 0; half < kHalves; half++) {
          for (int i = 0; i < kPages; i++) {
            CopyBox(k + plane * Shape::kTileBytes + (half * kPages + i) * 64 * 128, plane == 0 ? &p.k : &p.v,
                    full, column + 64 * half, 0, pages[i]);
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

template <class Shape>
__device__ __forceinline__ void FlashScores(typename Shape::Scores& S, uint32_t q, uint32_t k) {
  const Operand queries = RowOperand(q), keys = RowOperand(k);
#pragma unroll
  for (int x = 0; x < Shape::kHead; x += 16) {
    WgmmaShared<0>(S, queries.At(x / 64 * 64 * 128 + x % 64 * 2),
                   keys.At(x / 64 * Shape::kColumns * 128 + x % 64 * 2), x > 0, __nv_bfloat16());
  }
}

template <class Shape>
__device__ __forceinline__ void FlashValues(typename Shape::Sums& O, const typename Shape::Weights& P,
                                            uint32_t v) {
  const Operand values = ColumnOperand(v, Shape::kColumns * 128);
#pragma unroll
  for (int j = 0; j < Shape::kColumns; j += 16) {
    const uint32_t a[4] = {P[j / 4], P[j / 4 + 1], P[j / 4 + 2], P[j / 4 + 3]};
    WgmmaRegisters<1>(O, a, values.At(j * 128), 1, __nv_bfloat16());
  }
}

// Columns that the thread's rows do not see; position: of its first row, column: of the tile's first.
template <class Shape>
__device__ __forceinline__ void FlashMask(typename Shape::Scores& S, int position, int column) {
  const int limit = position + 1 - column - 2 * (threadIdx.x % 4);  // of the first row; the other sees 8 more
#pragma unroll
  for (int j = 0; j < Shape::kColumns / 8; j++) {
    if (8 * j >= limit) S[4 * j] = -INFINITY;
    if (8 * j + 1 >= limit) S[4 * j + 1] = -INFINITY;
    if (8 * j >= limit + 8) S[4 * j + 2] = -INFINITY;
    if (8 * j + 1 >= limit + 8) S[4 * j + 3] = -INFINITY;
  }
}

// S becomes the weights 2^(S - m); alpha: what sums over earlier tiles are multiplied with. Both rows at once
// and in several chains each: a warp has little company to hide its latencies behind.
template <class Shape>
__device__ __forceinline__ void FlashSoftmax(typename Shape::Scores& S, FlashRows& rows, float (&alpha)[2],
                                             float scale) {
  float largest[4] = {rows.maximum[0], rows.maximum[0], rows.maximum[1], rows.maximum[1]};
#pragma unroll
  for (int i = 0; i < Shape::kColumns / 2; i++) largest[i % 4] = fmaxf(largest[i % 4], S[i]);
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
  for (int i = 0; i < Shape::kColumns / 2; i++) {
    S[i] = Exp2(S[i] * scale - m[i / 2 % 2]);
    sum[i % 4] += S[i];
  }
  rows.sum[0] = sum[0] + sum[1];
  rows.sum[1] = sum[2] + sum[3];
}

// The accumulator's layout is that of the A operand: eight columns of two rows become one register of each.
template <class Shape>
__device__ __forceinline__ void FlashPack(typename Shape::Weights& P, const typename Shape::Scores& S) {
#pragma unroll
  for (int i = 0; i < Shape::kColumns / 4; i++) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(S[2 * i], S[2 * i + 1]);
    P[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// v rows beyond the session's end: weights there are zero, but what is in the page may be no number.
template <class Shape>
__device__ __forceinline__ void FlashClearValues(uint8_t* v, int first_row) {
  const int rows = Shape::kColumns - first_row;
  for (int i = threadIdx.x; i < Shape::kHead / 64 * rows * 8; i += Shape::kGroups * 128) {
    const int row = first_row + i / 8 % rows, half = i / 8 / rows;
    reinterpret_cast<uint4*>(v + (half * Shape::kColumns + row) * 128)[i % 8] = make_uint4(0, 0, 0, 0);
  }
  FenceSharedWrites();
  NamedBarrier(1, Shape::kGroups * 128);
}

// o rows of the thread, from sums and their weights. row: of the tile.
template <class Shape>
__device__ __forceinline__ void FlashStore(const FlashParams& p, const ForwardTile& at, int head, int row,
                                           const FlashRows& rows, const typename Shape::Sums& O) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const bool stored = row + 8 * half < at.rows;
    const float factor = 1 / sum;
    __nv_bfloat16* to =
        p.o + static_cast<int64_t>(at.first_row + row + 8 * half) * p.D + head * Shape::kHead + 8 * lane;
#pragma unroll
    for (int j = 0; j < Shape::kHead / 8; j += 4) {
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

// A consumer's view of its piece of work.
template <class Shape>
struct FlashPiece {
  int row;           // of the tile: the thread's first
  int position;      // of that row
  int tiles;         // of k and v
  int end;           // positions that have k and v
  uint32_t queries;  // shared address
  uint32_t ring;

  __device__ uint32_t Keys(int stage) const { return ring + stage * 2 * Shape::kTileBytes; }
  __device__ uint32_t Values(int stage) const { return Keys(stage) + Shape::kTileBytes; }
  __device__ void Mask(typename Shape::Scores& S, int tile) const {
    if (position < (tile + 1) * Shape::kColumns) FlashMask<Shape>(S, position, tile * Shape::kColumns);
  }
};

// Clears what the last tile of v holds behind the session's end.
template <class Shape>
__device__ __forceinline__ void FlashClearLast(const FlashPiece<Shape>& piece, uint8_t* ring,
                                               FlashBarriers<Shape>& barriers,
                                               const FlashPlace<Shape>& place) {
  if (piece.end >= piece.tiles * Shape::kColumns) return;
  BarrierWait(&barriers.v_full[place.stage], place.phase);
  FlashClearValues<Shape>(ring + place.stage * 2 * Shape::kTileBytes + Shape::kTileBytes,
                          piece.end - (piece.tiles - 1) * Shape::kColumns);
}

// O and the rows' sums; the next tile's q k^T is under way while a tile's weights are multiplied with v.
template <class Shape>
__device__ __forceinline__ void FlashMultiply(const FlashParams& p, const FlashPiece<Shape>& piece,
                                              uint8_t* ring, FlashBarriers<Shape>& barriers,
                                              FlashPlace<Shape>& place, FlashRows& rows,
                                              typename Shape::Sums& O) {
  const int lane = threadIdx.x % 32;
  typename Shape::Scores S;
  typename Shape::Weights P;
  float alpha[2];
  BarrierWait(&barriers.k_full[place.stage], place.phase);
  WgmmaFence();
  FlashScores<Shape>(S, piece.queries, piece.Keys(place.stage));
  WgmmaCommit();
  WgmmaWait<0>();
  Pin(S);
  if (lane == 0) BarrierArrive(&barriers.k_empty[place.stage]);
  piece.Mask(S, piece.tiles - 1);
  FlashSoftmax<Shape>(S, rows, alpha, p.scale);
  FlashPack<Shape>(P, S);
  FlashClearLast(piece, ring, barriers, place);
  for (int tile = piece.tiles - 2; tile >= 0; tile--) {
    const int v_stage = place.stage;
    const uint32_t v_phase = place.phase;
    place.NextStage();
    BarrierWait(&barriers.k_full[place.stage], place.phase);
    Pin(S);
    Pin(O);
    WgmmaFence();
    FlashScores<Shape>(S, piece.queries, piece.Keys(place.stage));
    WgmmaCommit();
    BarrierWait(&barriers.v_full[v_stage], v_phase);
    WgmmaFence();
    FlashValues<Shape>(O, P, piece.Values(v_stage));
    WgmmaCommit();
    WgmmaWait<1>();
    Pin(S);
    if (lane == 0) BarrierArrive(&barriers.k_empty[place.stage]);
    piece.Mask(S, tile);
    FlashSoftmax<Shape>(S, rows, alpha, p.scale);
    WgmmaWait<0>();
    Pin(O);
    if (lane == 0) BarrierArrive(&barriers.v_empty[v_stage]);
#pragma unroll
    for (int i = 0; i < Shape::kHead / 2; i++) O[i] *= alpha[i / 2 % 2];
    FlashPack<Shape>(P, S);
  }
  BarrierWait(&barriers.v_full[place.stage], place.phase);
  Pin(O);
  WgmmaFence();
  FlashValues<Shape>(O, P, piece.Values(place.stage));
  WgmmaCommit();
  WgmmaWait<0>();
  Pin(O);
  if (lane == 0) BarrierArrive(&barriers.v_empty[place.stage]);
  place.NextStage();
}

// One piece of work.
template <class Shape>
__device__ __forceinline__ void FlashAttend(const FlashParams& p, const ForwardTile& at, int head,
                                            uint8_t* queries, uint8_t* ring, FlashBarriers<Shape>& barriers,
                                            FlashPlace<Shape>& place) {
  const int group = threadIdx.x / 128, lane = threadIdx.x % 32, buffer = place.round % 2;
  FlashPiece<Shape> piece;
  piece.row = group * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;
  piece.position = at.position + piece.row;
  piece.tiles = FlashTiles<Shape>(at);
  piece.end = at.end;
  piece.queries = SharedAddress(queries) + buffer * Shape::kQueryBytes + group * 64 * Shape::kHead * 2;
  piece.ring = SharedAddress(ring);
  FlashRows rows;
  typename Shape::Sums O = {};
  BarrierWait(&barriers.query_full[buffer], place.round / 2 % 2);
  FlashMultiply<Shape>(p, piece, ring, barriers, place, rows, O);
  if (lane == 0) BarrierArrive(&barriers.query_empty[buffer]);
  FlashStore<Shape>(p, at, head, piece.row, rows, O);
}

template <class Shape>
__device__ __forceinline__ void FlashConsume(const FlashParams& p, uint8_t* queries, uint8_t* ring,
                                             FlashBarriers<Shape>& barriers) {
  FlashPlace<Shape> place;
  WaitForPrevious();
  for (; place.round * gridDim.x < p.work; place.round++) {
    const int work = place.Work();
    if (work >= p.work) continue;
    const ForwardTile at = p.tiles[work / p.heads];
    FlashAttend<Shape>(p, at, work % p.heads, queries, ring, barriers, place);
  }
}

#endif  // SESSA_HOPPER_CODE

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) FlashKernel(const __grid_constant__ FlashParams p) {
#if SESSA_HOPPER_CODE
  extern __shared__ uint8_t shared[];
  __shared__ FlashBarriers<Shape> barriers;
  uint8_t* queries = shared + ((1024 - SharedAddress(shared) % 1024) % 1024);
  uint8_t* ring = queries + 2 * Shape::kQueryBytes;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; i++) {
      BarrierInit(&barriers.query_full[i], 1);
      BarrierInit(&barriers.query_empty[i], Shape::kGroups * 4);
    }
    for (int i = 0; i < Shape::kStages; i++) {
      BarrierInit(&barriers.k_full[i], 1);
      BarrierInit(&barriers.v_full[i], 1);
      BarrierInit(&barriers.k_empty[i], Shape::kGroups * 4);
      BarrierInit(&barriers.v_empty[i], Shape::kGroups * 4);
    }
    BarrierInitFence();
  }
  __syncthreads();
  AllowNext();
  if (threadIdx.x >= Shape::kGroups * 128) {
    ShrinkRegisters<40>();
    if (threadIdx.x == Shape::kGroups * 128) {
      FlashProduce<Shape>(p, queries, ring, barriers);
    } else {
      WaitForPrevious();
    }
  } else {
    GrowRegisters<232>();
    FlashConsume<Shape>(p, queries, ring, barriers);
  }
#else
  __trap();
#endif
}

template <class Shape>
cudaError_t LaunchFlash(const FlashParams& params, int multiprocessors, cudaStream_t stream) {
  static const cudaError_t configured =
      cudaFuncSetAttribute(FlashKernel<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kShared);
  if (configured != cudaSuccess) return configured;
  const int blocks = params.work < multiprocessors ? params.work : multiprocessors;
  return LaunchOverlapped(FlashKernel<Shape>, blocks, Shape::kThreads, Shape::kShared, stream, params);
}

}  // namespace sessa::cuda
