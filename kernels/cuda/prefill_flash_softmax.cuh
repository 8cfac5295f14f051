// What a consumer of the forward kernel does with a tile of keys and values, all in its registers: scores,
// mask, online softmax, weights in bf16, sums.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/prefill_hopper.cuh"
#include "kernels/cuda/prefill_tables.h"
#include "kernels/cuda/prefill_wgmma.cuh"

namespace sessa::cuda {

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

#if SESSA_HOPPER_CODE

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

#endif  // SESSA_HOPPER_CODE

}  // namespace sessa::cuda
