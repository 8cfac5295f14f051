// Where a solved row of s goes: the step's activations (as s, or gated as u = s g), the page, and the open
// page of the block still being filled.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/prefill_launch.h"

namespace sessa::cuda {

// fp16, saturating: a value beyond its range becomes +-65504.
__device__ __forceinline__ __half2 ClampToHalf(float2 value) {
  return __floats2half2_rn(fminf(fmaxf(value.x, -65504.f), 65504.f),
                           fminf(fmaxf(value.y, -65504.f), 65504.f));
}

// Column 0 of a padded row's places; all null for rows that are not new, open null outside the last block, s
// or g and u null where they are not wanted.
struct SolvedRow {
  float* s = nullptr;
  const float* g = nullptr;
  __nv_bfloat16* u = nullptr;
  __half* page = nullptr;
  float* open = nullptr;
};

__device__ __forceinline__ SolvedRow FindSolvedRow(const PrefillBuffers& buffers,
                                                   const DeviceSegment& segment, int i,
                                                   const SolveOperands& operands) {
  SolvedRow row;
  const int end = segment.lead + segment.rows;
  if (i < segment.lead || i >= end) return row;
  const int position = segment.block_start + i;
  const int64_t in_page = static_cast<int64_t>(position % kPageTokens) * buffers.D;
  const int64_t page = buffers.page_table[segment.page_begin + position / kPageTokens];
  const int64_t at = static_cast<int64_t>(segment.first_row + i - segment.lead) * buffers.D;
  if (operands.s != nullptr) row.s = operands.s + at;
  if (operands.u != nullptr) {
    row.g = operands.g + at;
    row.u = static_cast<__nv_bfloat16*>(operands.u) + at;
  }
  row.page = reinterpret_cast<__half*>(buffers.s_plane + page * buffers.page_bytes) + in_page;
  if (i / kPageTokens == (end - 1) / kPageTokens) {
    row.open =
        reinterpret_cast<float*>(buffers.open_plane + segment.open_page * buffers.open_page_bytes) + in_page;
  }
  return row;
}

// Stores columns column and column + 1 but for the page's; gate: g of these columns. Returns how many of the
// values fp16 does not hold.
__device__ __forceinline__ int StoreSolved(const SolvedRow& row, int column, float2 value, float2 gate) {
  if (row.s != nullptr) *reinterpret_cast<float2*>(row.s + column) = value;
  if (row.u != nullptr) {
    *reinterpret_cast<__nv_bfloat162*>(row.u + column) =
        __floats2bfloat162_rn(value.x * gate.x, value.y * gate.y);
  }
  if (row.open != nullptr) *reinterpret_cast<float2*>(row.open + column) = value;
  return !(fabsf(value.x) <= 65504.f) + !(fabsf(value.y) <= 65504.f);
}

__device__ __forceinline__ void CountSaturations(const SolveOperands& operands, int count) {
  if (count > 0) atomicAdd(operands.saturations, static_cast<unsigned long long>(count));
}

}  // namespace sessa::cuda
