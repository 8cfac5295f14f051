// The logits, the last phase of the few-rows kernel: all blocks of threads wait for x, normalise it and deal
// the vocabulary out among themselves. Weights go from memory straight to registers, one step ahead of their
// use.
#pragma once

#include "kernels/cuda/few_rows_phases.cuh"

namespace sessa::cuda {

static_assert(kHeadOutputs / 2 * kFewRows <= kFewThreads);  // a thread for two of them

__device__ __forceinline__ void LoadHead(const FewRowsParams& p, int first, TileWeights<kHeadTiles>& a) {
  const int lane = threadIdx.x & 31, quad = lane >> 2, t = lane & 3;
  const Strand strand = OwnStrand(p.pitch);
#pragma unroll
  for (int m = 0; m < kHeadTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int output = first + 16 * m + 8 * h + quad;
      const bf16* row = static_cast<const bf16*>(p.head) + static_cast<int64_t>(output) * p.pitch + 8 * t;
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int k = (strand.begin + j) * kChunk;
        const bool inside = output < p.vocab && strand.begin + j < strand.end && k + 8 * t < p.pitch;
        a[m][j][h] = inside ? LoadWeights(reinterpret_cast<const uint4*>(row + k)) : make_uint4(0, 0, 0, 0);
      }
    }
  }
}

// The logits of outputs [first, first + kHeadOutputs) of all rows. Calls take turns with the two `strands`:
// while some threads add up one call's, others may be in the next.
template <int V>
__device__ __forceinline__ void MakeLogits(const FewRowsParams& p, int first,
                                           const TileWeights<kHeadTiles>& weights, const FewRowsPass& pass,
                                           const LinearMemory<V>& memory, const int (&output_rows)[kFewRows],
                                           Strands* strands) {
  MultiplyTile<kHeadTiles>(weights, pass.rows, p.pitch, memory, strands);
  SyncComputing();
  constexpr int kPairs = kHeadOutputs / 2;
  const int row = threadIdx.x / kPairs, pair = threadIdx.x % kPairs, n = first + 2 * pair;
  if (row >= pass.rows || n >= p.vocab) return;
  const float2 y = SumStrands(strands[pair / 8], row, pair % 8);
#pragma unroll
  for (int i = 0; i < kFewRows; ++i) {
    if (output_rows[i] != row) continue;
    float* logits = p.logits + static_cast<int64_t>(i) * p.vocab + n;
    logits[0] = y.x;
    if (n + 1 < p.vocab) logits[1] = y.y;
  }
}

template <int V>
__device__ __forceinline__ void Head(const FewRowsParams& p, const FewRowsPass& pass, FewRowsMemory<V>& m) {
  TileWeights<kHeadTiles> even, odd;
  LoadHead(p, HeadGroup(0), even);
  int output_rows[kFewRows];
#pragma unroll
  for (int i = 0; i < kFewRows; ++i) output_rows[i] = i < p.output_count ? p.outputs[i].row : -1;
  NormRows(p, p.norm_weight, p.norm_bias, pass, m);
#pragma unroll 1
  for (int step = 0; HeadGroup(step) < p.vocab; step += 2) {
    LoadHead(p, HeadGroup(step + 1), odd);
    MakeLogits(p, HeadGroup(step), even, pass, m.linear, output_rows, m.linear.head[0]);
    if (HeadGroup(step + 1) >= p.vocab) break;
    LoadHead(p, HeadGroup(step + 2), even);
    MakeLogits(p, HeadGroup(step + 1), odd, pass, m.linear, output_rows, m.linear.head[1]);
  }
}

}  // namespace sessa::cuda
