// The logits, the last phase of the few-rows kernel: all blocks of threads wait for x, normalise it and deal
// the vocabulary out among themselves in tiles of 16 outputs, whose weights the copying warp brings.
#pragma once

#include "kernels/cuda/few_rows_copies.cuh"
#include "kernels/cuda/few_rows_phases.cuh"

namespace sessa::cuda {

template <int V>
__device__ __forceinline__ void Head(const FewRowsParams& p, const FewRowsPass& pass, FewRowsMemory<V>& m) {
  NormRows(p, LoadNorm(p, p.norm_weight, p.norm_bias), pass, m);
  const int row = threadIdx.x / 8, pair = threadIdx.x % 8;
#pragma unroll 1
  for (int i = 0; HeadTile(i) < p.vocab; ++i) {
    const int slot = i % kHeadSlots, n = HeadTile(i) + 2 * pair;
    TileWeights<1> weights;
    m.head_full[slot].Wait(i / kHeadSlots & 1);
    ReadTile<1>(HeadWeights(m, slot), p.pitch, weights);
    // By turns: while some threads add up one tile's strands, others may be at the next.
    Strands* strands = &m.linear.head[i % 2];
    MultiplyTile<1>(weights, pass.rows, p.pitch, m.linear, strands);
    SyncComputing();
    m.head_free[slot].ArriveAfterMeeting();
    if (row >= pass.rows || n >= p.vocab) continue;
    const float2 y = SumStrands(*strands, row, pair);
#pragma unroll
    for (int output = 0; output < kFewRows; ++output) {
      if (output >= p.output_count || p.tables.output_rows[output] != row) continue;
      float* logits = p.logits + static_cast<int64_t>(output) * p.vocab + n;
      logits[0] = y.x;
      if (n + 1 < p.vocab) logits[1] = y.y;
    }
  }
}

}  // namespace sessa::cuda
