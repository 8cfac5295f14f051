// y = X W^T for few rows, with an epilogue. A block of threads makes 16 MT outputs of up to 8 NT rows; each
// of its eight warps accumulates one strand of K, weights going from memory straight into tensor-core
// registers.
#pragma once

#include "kernels/cuda/epilogues.cuh"
#include "kernels/cuda/launch.cuh"

namespace sessa::cuda {

inline constexpr int kStrands = 8;
inline constexpr int kChunk = 32;  // of K: what four lanes of a quad load in 16 bytes each
inline constexpr int kAhead = 4;   // chunks whose weights are loaded before the first is used

__device__ __forceinline__ uint4 LoadWeights(const uint4* at) {
  uint4 r;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "l"(at));
  return r;
}

__device__ __forceinline__ void Mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// In an m16n8k16 product lane 4g + t holds A(g, k), A(g + 8, k) and B(k, g) for k in {2t, 2t+1, 2t+8, 2t+9}.
// The order of K is ours to choose, so lane t takes eight neighbours, k = 8t..8t+7 of a chunk of 32: a
// 16-byte load of a row feeds two products. X of `XA` chunks is loaded at once. Chunks beyond the strand, and
// what lies beyond K, count as zeros.
template <int MT, int NT, int XA, typename Epilogue>
__global__ void __launch_bounds__(kStrands * 32) DecodeGemmKernel(DecodeGemm gemm, Epilogue epilogue) {
  constexpr int kRows = 8 * NT;
  __shared__ float strands[kStrands][kRows][18];  // [.][row][output]; padded: 16 outputs
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, quad = lane >> 2, t = lane & 3;
  const int row_tiles = (gemm.rows + kRows - 1) / kRows;  // those of the same outputs side by side
  const int first_output = blockIdx.x / row_tiles * 16 * MT, first_row = blockIdx.x % row_tiles * kRows;
  const int chunks = (gemm.pitch + kChunk - 1) / kChunk;
  const int begin = chunks * warp / kStrands, end = chunks * (warp + 1) / kStrands;
  const bf16* weight = static_cast<const bf16*>(gemm.weight) + 8 * t;
  int64_t w_row[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      w_row[m][h] =
          static_cast<int64_t>(min(first_output + 16 * m + 8 * h + quad, gemm.outputs - 1)) * gemm.pitch;
    }
  }
  const bf16* x = static_cast<const bf16*>(gemm.x) + 8 * t;
  int64_t x_row[NT];
#pragma unroll
  for (int i = 0; i < NT; ++i) {
    x_row[i] = static_cast<int64_t>(min(first_row + 8 * i + quad, gemm.rows - 1)) * gemm.pitch;
  }

  float sums[MT][NT][4] = {};
  for (int first = begin; first == begin || first < end; first += kAhead) {
    uint4 a[kAhead][MT][2];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int k = (first + j) * kChunk;
      const bool inside = first + j < end && k + 8 * t < gemm.pitch;
#pragma unroll
      for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          a[j][m][h] = inside ? LoadWeights(reinterpret_cast<const uint4*>(weight + w_row[m][h] + k))
                              : make_uint4(0, 0, 0, 0);
        }
      }
    }
    if (first == begin) {
      PdlWait();
      PdlTrigger();
    }
#pragma unroll
    for (int group = 0; group < kAhead; group += XA) {
      uint4 b[XA][NT];
#pragma unroll
      for (int j = 0; j < XA; ++j) {
        const int k = (first + group + j) * kChunk;
        const bool inside = first + group + j < end && k + 8 * t < gemm.pitch;
#pragma unroll
        for (int i = 0; i < NT; ++i) {
          b[j][i] = inside ? *reinterpret_cast<const uint4*>(x + x_row[i] + k) : make_uint4(0, 0, 0, 0);
        }
      }
#pragma unroll
      for (int j = 0; j < XA; ++j) {
#pragma unroll
        for (int m = 0; m < MT; ++m) {
          const uint4 low = a[group + j][m][0], high = a[group + j][m][1];
#pragma unroll
          for (int i = 0; i < NT; ++i) {
            Mma(sums[m][i], low.x, high.x, low.y, high.y, b[j][i].x, b[j][i].y);
            Mma(sums[m][i], low.z, high.z, low.w, high.w, b[j][i].z, b[j][i].w);
          }
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < MT; ++m) {
    if (m > 0) __syncthreads();
#pragma unroll
    for (int i = 0; i < NT; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) strands[warp][8 * i + 2 * t + (e & 1)][quad + (e >> 1) * 8] = sums[m][i][e];
    }
    __syncthreads();
    for (int pair = threadIdx.x; pair < 8 * kRows; pair += kStrands * 32) {
      const int row = first_row + pair / 8, n = first_output + 16 * m + 2 * (pair % 8);
      if (row >= gemm.rows || n >= gemm.outputs) continue;
      float2 y = make_float2(0.0f, 0.0f);
#pragma unroll
      for (int s = 0; s < kStrands; ++s) {
        y.x += strands[s][pair / 8][2 * (pair % 8)];
        y.y += strands[s][pair / 8][2 * (pair % 8) + 1];
      }
      epilogue(row, n, y.x, y.y, gemm.outputs);
    }
  }
}

template <int MT, int NT, int XA, typename Epilogue>
cudaError_t LaunchDecodeGemmTile(const DecodeGemm& gemm, const Epilogue& epilogue,
                                 const LaunchContext& context) {
  const int output_tiles = (gemm.outputs + 16 * MT - 1) / (16 * MT),
            row_tiles = (gemm.rows + 8 * NT - 1) / (8 * NT);
  return LaunchKernel(DecodeGemmKernel<MT, NT, XA, Epilogue>, dim3(output_tiles * row_tiles),
                      dim3(kStrands * 32), 0, context.dependent, context.stream, gemm, epilogue);
}

// Up to 64 rows a tile is small, so that every multiprocessor has one; then larger, so that X is read less
// often.
template <typename Epilogue>
cudaError_t LaunchDecodeGemmRows(const DecodeGemm& gemm, const Epilogue& epilogue,
                                 const LaunchContext& context) {
  if (gemm.rows <= 8) return LaunchDecodeGemmTile<1, 1, 4>(gemm, epilogue, context);
  if (gemm.rows <= 16) return LaunchDecodeGemmTile<1, 2, 4>(gemm, epilogue, context);
  if (gemm.rows <= 64) return LaunchDecodeGemmTile<1, 4, 4>(gemm, epilogue, context);
  return LaunchDecodeGemmTile<1, 8, 2>(gemm, epilogue, context);
}

}  // namespace sessa::cuda
