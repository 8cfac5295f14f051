// y = X W^T for decode rows, with an epilogue: what its kernels share, and the one for up to eight rows. Each
// of the eight warps of a block of threads accumulates one strand of K.
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

// The strand of K that a warp takes: chunks [begin, end).
struct Strand {
  int begin, end;
};
__device__ __forceinline__ Strand OwnStrand(int pitch) {
  const int warp = threadIdx.x >> 5, chunks = (pitch + kChunk - 1) / kChunk;
  return {chunks * warp / kStrands, chunks * (warp + 1) / kStrands};
}

// Two neighbouring outputs of a row: `strands` points at them in the first strand, the others' begin `stride`
// floats apart. Added in order.
__device__ __forceinline__ float2 SumStrands(const float* strands, int stride) {
  float2 y = make_float2(0.0f, 0.0f);
#pragma unroll
  for (int s = 0; s < kStrands; ++s) {
    const float2 part = *reinterpret_cast<const float2*>(strands + s * stride);
    y.x += part.x;
    y.y += part.y;
  }
  return y;
}

// A tile of 16 MT outputs and 8 NT rows once its strands are in shared memory: adds them in order and applies
// the epilogue. A thread makes pairs of neighbouring outputs, and takes in what the epilogue needs for them
// while the product is being made, unless that are too many registers.
template <int MT, int NT, typename Epilogue>
class GemmTile {
 public:
  static constexpr int kPitch = 16 * MT + 4;  // floats of a row of a strand; no two lanes of Put share a bank
  static constexpr int kStrandFloats = 8 * NT * kPitch;

  __device__ __forceinline__ GemmTile(const DecodeGemm& gemm, const Epilogue& epilogue, int first_row,
                                      int first_output)
      : gemm_(gemm), epilogue_(epilogue), first_row_(first_row), first_output_(first_output) {}

  // After PdlWait.
  __device__ __forceinline__ void LoadOperands() {
    if (kEarly) Load();
  }
  // This warp's strand to its place.
  __device__ __forceinline__ static void Put(const float (&sums)[MT][NT][4], float* strand) {
    const int lane = threadIdx.x & 31, quad = lane >> 2, t = lane & 3;
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
      for (int i = 0; i < NT; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          strand[(8 * i + 2 * t + (e & 1)) * kPitch + 16 * m + 8 * (e >> 1) + quad] = sums[m][i][e];
        }
      }
    }
  }
  // The strands begin `stride` floats apart.
  __device__ __forceinline__ void Finish(const float* strands, int stride) {
    if (!kEarly) Load();
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (!Inside(i)) continue;
      const float2 y = SumStrands(strands + Row(i) * kPitch + Output(i), stride);
      epilogue_.Apply(operands_[i], first_row_ + Row(i), first_output_ + Output(i), y.x, y.y, gemm_.outputs);
    }
  }

 private:
  static constexpr int kPairs = (64 * MT * NT + kStrands * 32 - 1) / (kStrands * 32);  // of a thread
  static constexpr bool kEarly = kPairs <= 2;

  __device__ __forceinline__ static int Row(int i) { return (threadIdx.x + i * kStrands * 32) / (8 * MT); }
  __device__ __forceinline__ static int Output(int i) {
    return 2 * ((threadIdx.x + i * kStrands * 32) % (8 * MT));
  }
  __device__ __forceinline__ bool Inside(int i) const {
    return Row(i) < 8 * NT && first_row_ + Row(i) < gemm_.rows && first_output_ + Output(i) < gemm_.outputs;
  }
  __device__ __forceinline__ void Load() {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (Inside(i)) {
        operands_[i] = epilogue_.Load(first_row_ + Row(i), first_output_ + Output(i), gemm_.outputs);
      }
    }
  }

  const DecodeGemm& gemm_;
  const Epilogue& epilogue_;
  const int first_row_, first_output_;
  typename Epilogue::Operands operands_[kPairs];
};

// In an m16n8k16 product lane 4g + t holds A(g, k), A(g + 8, k) and B(k, g) for k in {2t, 2t+1, 2t+8, 2t+9}.
// The order of K is ours to choose, so lane t takes eight neighbours, k = 8t..8t+7 of a chunk of 32: 16 bytes
// of a row feed two products.
template <int NT>
__device__ __forceinline__ void MultiplyChunk(float (&sums)[NT][4], const uint4& low, const uint4& high,
                                              const uint4 (&b)[NT]) {
#pragma unroll
  for (int i = 0; i < NT; ++i) Mma(sums[i], low.x, high.x, low.y, high.y, b[i].x, b[i].y);
#pragma unroll
  for (int i = 0; i < NT; ++i) Mma(sums[i], low.z, high.z, low.w, high.w, b[i].z, b[i].w);
}

// 16 outputs of up to eight rows, whose numbers go from memory straight into tensor-core registers. Chunks
// beyond the strand, and what lies beyond K, count as zeros.
template <typename Epilogue>
__global__ void __launch_bounds__(kStrands * 32) DecodeGemmKernel(DecodeGemm gemm, Epilogue epilogue) {
  using Tile = GemmTile<1, 1, Epilogue>;
  __shared__ float strands[kStrands][Tile::kStrandFloats];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, quad = lane >> 2, t = lane & 3;
  const int first_output = blockIdx.x * 16;
  const auto [begin, end] = OwnStrand(gemm.pitch);
  const auto row_of = [&](const void* matrix, int row, int rows) {
    return static_cast<const bf16*>(matrix) + static_cast<int64_t>(min(row, rows - 1)) * gemm.pitch + 8 * t;
  };
  const bf16* weight[] = {row_of(gemm.weight, first_output + quad, gemm.outputs),
                          row_of(gemm.weight, first_output + 8 + quad, gemm.outputs)};
  const bf16* x = row_of(gemm.x, quad, gemm.rows);
  Tile tile(gemm, epilogue, 0, first_output);
  float sums[1][1][4] = {};
  for (int first = begin; first == begin || first < end; first += kAhead) {
    const auto inside = [&](int j) { return first + j < end && (first + j) * kChunk + 8 * t < gemm.pitch; };
    uint4 a[kAhead][2], b[kAhead][1];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        a[j][h] = inside(j) ? LoadWeights(reinterpret_cast<const uint4*>(weight[h] + (first + j) * kChunk))
                            : make_uint4(0, 0, 0, 0);
      }
    }
    if (first == begin) {
      PdlWait();
      PdlTrigger();
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      b[j][0] =
          inside(j) ? *reinterpret_cast<const uint4*>(x + (first + j) * kChunk) : make_uint4(0, 0, 0, 0);
    }
    if (first == begin) tile.LoadOperands();
#pragma unroll
    for (int j = 0; j < kAhead; ++j) MultiplyChunk(sums[0], a[j][0], a[j][1], b[j]);
  }
  Tile::Put(sums, strands[warp]);
  __syncthreads();
  tile.Finish(strands[0], Tile::kStrandFloats);
}

template <typename Epilogue>
cudaError_t LaunchDecodeGemmDirect(const DecodeGemm& gemm, const Epilogue& epilogue,
                                   const LaunchContext& context) {
  return LaunchKernel(DecodeGemmKernel<Epilogue>, dim3((gemm.outputs + 15) / 16), dim3(kStrands * 32), 0,
                      context.dependent, context.stream, gemm, epilogue);
}

}  // namespace sessa::cuda
