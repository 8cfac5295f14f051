// Where a solved row of s goes: the step's activations, the page, and the open page of the block still being filled.
#pragma once

#include "kernels/cuda/prefill_launch.h"

namespace sessa::cuda {

// fp16, saturating: a value beyond its range becomes +-65504.
__device__ __forceinline__ __half2 ClampToHalf(float2 value) {
  return __floats2half2_rn(fminf(fmaxf(value.x, -65504.f), 65504.f), fminf(fmaxf(value.y, -65504.f), 65504.f));
}

// Writes columns column and column + 1 of padded row i of the segment; nothing for rows that are not new.
__device__ __forceinline__ void AppendSolved(const PrefillBuffers& buffers, const DeviceSegment& segment, int i,
                                             int column, float2 value, __half2 half, const SolveOutputs& outputs) {
  const int end = segment.lead + segment.rows;
  if (i < segment.lead || i >= end || column >= buffers.D) return;
  const int64_t row = segment.first_row + i - segment.lead;
  *reinterpret_cast<float2*>(outputs.s + row * buffers.D + column) = value;
  const int position = segment.block_start + i;
  const int32_t page = buffers.page_table[segment.page_begin + position / kPageTokens];
  const int64_t in_page = static_cast<int64_t>(position % kPageTokens) * buffers.D + column;
  *reinterpret_cast<__half2*>(buffers.s_plane + page * buffers.page_bytes + in_page * 2) = half;
  if (i / kPageTokens == (end - 1) / kPageTokens) {
    *reinterpret_cast<float2*>(buffers.open_plane + segment.open_page * buffers.open_page_bytes + in_page * 4) =
        value;
  }
  const int beyond = !(fabsf(value.x) <= 65504.f) + !(fabsf(value.y) <= 65504.f);
  if (beyond > 0) atomicAdd(outputs.saturations, static_cast<unsigned long long>(beyond));
}

}  // namespace sessa::cuda
