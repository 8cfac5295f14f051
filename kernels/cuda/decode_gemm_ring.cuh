// y = X W^T for more than eight rows: weights and rows go through shared memory, so that many bytes are on
// their way at once and a tile can be large. A warp works on its strand alone, from a ring of its own.
#pragma once

#include "kernels/cuda/decode_gemm.cuh"

namespace sessa::cuda {

// A chunk of K of a tile's outputs and rows; of each the 16 bytes of four lanes. Eight lanes of a load read
// 128 bytes side by side.
template <int MT, int NT>
struct GemmSlot {
  uint4 w[16 * MT][4], x[8 * NT][4];
};

template <int MT, int NT, int kSlots>
constexpr int GemmRingBytes() {
  return kStrands * kSlots * static_cast<int>(sizeof(GemmSlot<MT, NT>));
}

// A chunk of rows `first`.. of a matrix; rows beyond the last repeat it, what lies beyond K is zero.
template <int kRows>
__device__ __forceinline__ void CopyChunk(uint4 (&to)[kRows][4], const void* matrix, int first, int rows,
                                          int pitch, int chunk) {
  const int lane = threadIdx.x & 31, k = chunk * kChunk + lane % 4 * 8;
  const bf16* column = static_cast<const bf16*>(matrix) + (k < pitch ? k : 0);
#pragma unroll
  for (int r = lane / 4; r < kRows; r += 8) {
    const bf16* from = column + static_cast<int64_t>(min(first + r, rows - 1)) * pitch;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(&to[r][lane % 4]))),
                 "l"(from), "r"(k < pitch ? 16 : 0)
                 : "memory");
  }
}

// Tiles of 16 MT outputs and 8 NT rows; the tiles of the same outputs are side by side.
template <int MT, int NT, int kSlots, typename Epilogue>
__global__ void __launch_bounds__(kStrands * 32, 2) DecodeGemmRingKernel(DecodeGemm gemm, Epilogue epilogue) {
  using Tile = GemmTile<MT, NT, Epilogue>;
  using Slot = GemmSlot<MT, NT>;
  static_assert(kSlots * sizeof(Slot) >= Tile::kStrandFloats * sizeof(float));
  extern __shared__ uint4 shared[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, quad = lane >> 2, t = lane & 3;
  Slot* ring = reinterpret_cast<Slot*>(shared) + warp * kSlots;
  const int row_tiles = (gemm.rows + 8 * NT - 1) / (8 * NT);
  const int first_output = blockIdx.x / row_tiles * 16 * MT, first_row = blockIdx.x % row_tiles * 8 * NT;
  const auto [begin, end] = OwnStrand(gemm.pitch);
  const auto copy_weights = [&](int chunk) {
    if (chunk >= end) return;
    CopyChunk(ring[(chunk - begin) % kSlots].w, gemm.weight, first_output, gemm.outputs, gemm.pitch, chunk);
  };
  const auto copy_rows = [&](int chunk) {  // ends a group of copies, even if there are none
    if (chunk < end) {
      CopyChunk(ring[(chunk - begin) % kSlots].x, gemm.x, first_row, gemm.rows, gemm.pitch, chunk);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
#pragma unroll
  for (int s = 0; s < kSlots; ++s) copy_weights(begin + s);
  PdlWait();
  PdlTrigger();
#pragma unroll
  for (int s = 0; s < kSlots; ++s) copy_rows(begin + s);
  Tile tile(gemm, epilogue, first_row, first_output);
  tile.LoadOperands();

  float sums[MT][NT][4] = {};
#pragma unroll 1
  for (int chunk = begin; chunk < end; ++chunk) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kSlots - 1) : "memory");
    __syncwarp();
    const Slot& slot = ring[(chunk - begin) % kSlots];
    uint4 b[NT];
#pragma unroll
    for (int i = 0; i < NT; ++i) b[i] = slot.x[8 * i + quad][t];
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      MultiplyChunk(sums[m], slot.w[16 * m + quad][t], slot.w[16 * m + 8 + quad][t], b);
    }
    __syncwarp();
    copy_weights(chunk + kSlots);
    copy_rows(chunk + kSlots);
  }
  float* strand = reinterpret_cast<float*>(ring);  // whose slots are no longer needed
  Tile::Put(sums, strand);
  __syncthreads();
  tile.Finish(reinterpret_cast<const float*>(shared), kSlots * sizeof(Slot) / sizeof(float));
}

template <int MT, int NT>
int GemmTiles(const DecodeGemm& gemm) {
  return (gemm.outputs + 16 * MT - 1) / (16 * MT) * ((gemm.rows + 8 * NT - 1) / (8 * NT));
}

template <int MT, int NT, int kSlots, typename Epilogue>
cudaError_t LaunchDecodeGemmRing(const DecodeGemm& gemm, const Epilogue& epilogue,
                                 const LaunchContext& context) {
  const auto kernel = DecodeGemmRingKernel<MT, NT, kSlots, Epilogue>;
  constexpr int kBytes = GemmRingBytes<MT, NT, kSlots>();
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  return LaunchKernel(kernel, dim3(GemmTiles<MT, NT>(gemm)), dim3(kStrands * 32), kBytes, context.dependent,
                      context.stream, gemm, epilogue);
}

// The smallest tiles that are all at work at once, two on a multiprocessor; else the largest, which read
// least.
template <typename Epilogue>
cudaError_t LaunchDecodeGemmTiles(const DecodeGemm& gemm, const Epilogue& epilogue,
                                  const LaunchContext& context) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  if (GemmTiles<2, 2>(gemm) <= 2 * multiprocessors) {
    return LaunchDecodeGemmRing<2, 2, 3>(gemm, epilogue, context);
  }
  if (GemmTiles<2, 4>(gemm) <= 2 * multiprocessors) {
    return LaunchDecodeGemmRing<2, 4, 3>(gemm, epilogue, context);
  }
  return LaunchDecodeGemmRing<4, 4, 2>(gemm, epilogue, context);
}

template <typename Epilogue>
cudaError_t LaunchDecodeGemmRows(const DecodeGemm& gemm, const Epilogue& epilogue,
                                 const LaunchContext& context) {
  return gemm.rows <= 8 ? LaunchDecodeGemmDirect(gemm, epilogue, context)
                        : LaunchDecodeGemmTiles(gemm, epilogue, context);
}

}  // namespace sessa::cuda
