// Random numbers in device memory, for benches and their state.
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/fill_random.h"

namespace sessa::cuda {
namespace {

// Uniform in [-1, 1): a hash of seed and index (the finaliser of MurmurHash3, 64 bits).
__device__ float Uniform(uint64_t seed, uint64_t index) {
  uint64_t h = index * 0x9E3779B97F4A7C15ull + seed;
  h = (h ^ h >> 33) * 0xFF51AFD7ED558CCDull;
  h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53ull;
  return static_cast<float>((h ^ h >> 33) >> 40) * (2.0f / 16777216.0f) - 1.0f;
}

template <typename T>
__device__ T Convert(float x);
template <>
__device__ float Convert(float x) {
  return x;
}
template <>
__device__ bf16 Convert(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __half Convert(float x) {
  return __float2half_rn(x);
}

template <typename T>
__global__ void FillKernel(T* base, int64_t pitch, int64_t count, int64_t blocks, uint64_t seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count * blocks;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    T* block = reinterpret_cast<T*>(reinterpret_cast<char*>(base) + i / count * pitch);
    block[i % count] = Convert<T>(Uniform(seed, static_cast<uint64_t>(i)));
  }
}

}  // namespace

cudaError_t FillRandom(void* base, DType dtype, int64_t count, int64_t pitch, int64_t blocks, uint64_t seed,
                       cudaStream_t stream) {
  if (count == 0 || blocks == 0) return cudaSuccess;
  if (dtype == DType::kF32)
    FillKernel<<<2048, 256, 0, stream>>>(static_cast<float*>(base), pitch, count, blocks, seed);
  if (dtype == DType::kBF16)
    FillKernel<<<2048, 256, 0, stream>>>(static_cast<bf16*>(base), pitch, count, blocks, seed);
  if (dtype == DType::kF16) {
    FillKernel<<<2048, 256, 0, stream>>>(static_cast<__half*>(base), pitch, count, blocks, seed);
  }
  return cudaGetLastError();
}

}  // namespace sessa::cuda
