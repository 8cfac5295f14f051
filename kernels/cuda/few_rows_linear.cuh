// Linear layers of one or two rows inside the few-rows kernel: the arithmetic of decode_gemm.cuh, with the
// weights of a warp's strand in registers before the input is there. Each warp waits for the columns of its
// own strand only.
#pragma once

#include "kernels/cuda/few_rows_shared.cuh"

namespace sessa::cuda {

template <int MT>
using TileWeights = uint4[MT][kAhead][2];

// The first of the strand's columns that a lane waits for, and whether there are any.
__device__ __forceinline__ int OwnColumns(const Strand& strand) {
  return strand.begin * kChunk + 4 * static_cast<int>(threadIdx.x % 32);
}
__device__ __forceinline__ bool HasColumns(const Strand& strand, int width) {
  return OwnColumns(strand) < min(strand.end * kChunk, width);
}

// Weights in shared memory, rows of 8 outputs after each other: lane 4g + t takes 16 bytes of output g.
template <int MT, int kPitch>
__device__ __forceinline__ void ReadTile(const bf16 (*weights)[kPitch], int pitch, TileWeights<MT>& a) {
  const int lane = threadIdx.x & 31, quad = lane >> 2, t = lane & 3;
  const Strand strand = OwnStrand(pitch);
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    const int k = (strand.begin + j) * kChunk + 8 * t;
    const bool inside = strand.begin + j < strand.end && k < pitch;
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        a[m][j][h] = inside ? *reinterpret_cast<const uint4*>(&weights[16 * m + 8 * h + quad][k])
                            : make_uint4(0, 0, 0, 0);
      }
    }
  }
}

// Partial sums of the strand's input times the tile. kLow, kHigh: whether the tile's first and last eight
// outputs are wanted.
template <int MT, int V, bool kLow = true, bool kHigh = true>
__device__ __forceinline__ void MultiplyTile(const TileWeights<MT>& a, int rows, int pitch,
                                             const LinearMemory<V>& memory, Strands* strands) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, quad = lane >> 2, t = lane & 3;
  const Strand strand = OwnStrand(pitch);
  float sums[MT][1][4] = {};
  uint4 b[kAhead][1];
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    const int k = (strand.begin + j) * kChunk + 8 * t;
    const bool inside = quad < rows && strand.begin + j < strand.end && k < pitch;
    b[j][0] = inside ? *reinterpret_cast<const uint4*>(&memory.x[quad][k]) : make_uint4(0, 0, 0, 0);
  }
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      const uint4 none = make_uint4(0, 0, 0, 0), low = kLow ? a[m][j][0] : none,
                  high = kHigh ? a[m][j][1] : none;
      MultiplyChunk(sums[m], low, high, b[j]);
    }
  }
  if (t != 0) return;  // rows 2 t and the next
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) strands[m][warp][e & 1][quad + (e >> 1) * 8] = sums[m][0][e];
  }
}

// Outputs `pair` * 2 and the next of a tile.
__device__ __forceinline__ float2 SumStrands(const Strands& strands, int row, int pair) {
  return SumStrands(&strands[0][row][2 * pair], sizeof(strands[0]) / sizeof(float));
}

// The strand's columns of rows of bf16 to the input of a linear layer.
template <int V>
__device__ __forceinline__ void AwaitInput(const Word* words, const FewRowsParams& p, const FewRowsPass& pass,
                                           LinearMemory<V>& memory) {
  const Strand strand = OwnStrand(p.pitch);
  const int column = OwnColumns(strand);
  const bool any = HasColumns(strand, p.width);
  uint32_t numbers[2 * kFewRows];
  AwaitPairs<kFewRows>(
      pass.epoch, [&](int row) { return any && row < pass.rows ? words + PairWord(row, column) : nullptr; },
      numbers);
#pragma unroll
  for (int row = 0; row < kFewRows; ++row) {
    if (any && row < pass.rows) {
      *reinterpret_cast<uint2*>(&memory.x[row][column]) = make_uint2(numbers[2 * row], numbers[2 * row + 1]);
    }
  }
  __syncwarp();
}

}  // namespace sessa::cuda
