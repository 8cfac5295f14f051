// Linear layers of up to eight rows inside the few-rows kernel: the arithmetic of decode_gemm.cuh, with the
// weights of a warp's strand in registers before the input is there.
#pragma once

#include "kernels/cuda/few_rows_shared.cuh"

namespace sessa::cuda {

// A tile of 16 outputs is two groups of 8, which need not be neighbours: each is named by its first output,
// and kNoGroup is none.
inline constexpr int kNoGroup = -1;
template <int MT>
using TileGroups = int[MT][2];
template <int MT>
using TileWeights = uint4[MT][kAhead][2];

template <int MT>
__device__ __forceinline__ void LoadTile(const void* weight, int pitch, int outputs,
                                         const TileGroups<MT>& groups, TileWeights<MT>& a) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, quad = lane >> 2, t = lane & 3;
  const int chunks = (pitch + kChunk - 1) / kChunk;
  const int begin = chunks * warp / kStrands, end = chunks * (warp + 1) / kStrands;
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int output = groups[m][h] + quad;
      const bool any = groups[m][h] != kNoGroup && output < outputs;
      const bf16* row = static_cast<const bf16*>(weight) + static_cast<int64_t>(output) * pitch + 8 * t;
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int k = (begin + j) * kChunk;
        a[m][j][h] = any && begin + j < end && k + 8 * t < pitch
                         ? LoadWeights(reinterpret_cast<const uint4*>(row + k))
                         : make_uint4(0, 0, 0, 0);
      }
    }
  }
}

// The same from shared memory: rows of 8 MT groups, one after the other.
template <int MT, int kPitch>
__device__ __forceinline__ void ReadTile(const bf16 (&weights)[16 * MT][kPitch], int pitch,
                                         TileWeights<MT>& a) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, quad = lane >> 2, t = lane & 3;
  const int chunks = (pitch + kChunk - 1) / kChunk;
  const int begin = chunks * warp / kStrands, end = chunks * (warp + 1) / kStrands;
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    const int k = (begin + j) * kChunk + 8 * t;
    const bool inside = begin + j < end && k < pitch;
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

// Partial sums of the input in shared memory times the tile, one strand a warp.
template <int MT, int V>
__device__ __forceinline__ void MultiplyTile(const TileWeights<MT>& a, int rows, int pitch,
                                             LinearMemory<V>& memory) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, quad = lane >> 2, t = lane & 3;
  const int chunks = (pitch + kChunk - 1) / kChunk;
  const int begin = chunks * warp / kStrands, end = chunks * (warp + 1) / kStrands;
  float sums[MT][4] = {};
  uint4 b[kAhead];
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    const int k = (begin + j) * kChunk + 8 * t;
    const bool inside = quad < rows && begin + j < end && k < pitch;
    b[j] = inside ? *reinterpret_cast<const uint4*>(&memory.x[quad][k]) : make_uint4(0, 0, 0, 0);
  }
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      const uint4 low = a[m][j][0], high = a[m][j][1];
      Mma(sums[m], low.x, high.x, low.y, high.y, b[j].x, b[j].y);
      Mma(sums[m], low.z, high.z, low.w, high.w, b[j].z, b[j].w);
    }
  }
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      memory.strands[m][warp][2 * t + (e & 1)][quad + (e >> 1) * 8] = sums[m][e];
    }
  }
}

// Outputs `pair` * 2 and the next of a tile.
__device__ __forceinline__ float2 SumStrands(const Strands& strands, int row, int pair) {
  float2 y = make_float2(0.0f, 0.0f);
#pragma unroll
  for (int s = 0; s < kStrands; ++s) {
    const float2 part = *reinterpret_cast<const float2*>(&strands[s][row][2 * pair]);
    y.x += part.x;
    y.y += part.y;
  }
  return y;
}

// Rows of (D / 2) words, pairs of bf16, to the input of a linear layer; a row a warp.
template <int V>
__device__ __forceinline__ void AwaitInput(const Word* words, int width, const FewRowsPass& pass,
                                           LinearMemory<V>& memory) {
  constexpr int kLoads = 2 * V;
  const int row = threadIdx.x / 32;
  const auto column = [](int i) { return 4 * static_cast<int>(threadIdx.x % 32 + 32 * i); };
  if (row < pass.rows) {
    uint32_t numbers[2 * kLoads];
    AwaitPairs<kLoads>(
        pass.epoch,
        [&](int i) { return column(i) < width ? words + (row * width + column(i)) / 2 : nullptr; }, numbers);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (column(i) < width) {
        *reinterpret_cast<uint2*>(&memory.x[row][column(i)]) = make_uint2(numbers[2 * i], numbers[2 * i + 1]);
      }
    }
  }
  __syncthreads();
}

}  // namespace sessa::cuda
