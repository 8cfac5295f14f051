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

#include "kernels/cuda/prefill_flash_softmax.cuh"
#include "kernels/cuda/prefill_maps.h"
#include "kernels/cuda/prefill_overlap.cuh"
#include "kernels/cuda/prefill_tables.h"

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
