// Small device functions that several kernels share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace sessa::cuda {

using bf16 = __nv_bfloat16;

inline constexpr unsigned kWholeWarp = 0xffffffffu;

// Programmatic dependent launch: a kernel may begin before the one in front of it has ended. Everything that
// an earlier kernel wrote is read after PdlWait only; weights may be read before. Every kernel that is
// launched through LaunchKernel calls it in every thread, so that the end of a kernel implies the end of all
// before it.
__device__ __forceinline__ void PdlWait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// From here on the next kernel may begin, as far as there is room beside this one. Never before PdlWait: that a
// kernel has begun must mean that the last but one has ended (decode attention reads state on that ground).
__device__ __forceinline__ void PdlTrigger() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// GELU(x) = x/2 (1 + erf(x / sqrt 2)), through erfc: without its cancellation for x << 0.
__device__ __forceinline__ float Gelu(float x) { return 0.5f * x * erfcf(-x * 0.70710678118654752f); }

// 2^x, 0 where it would be denormal; exact at 0.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float SumWarp(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(kWholeWarp, x, offset);
  return x;
}

// fp16 with saturation: values beyond its range become +-65504 and are counted; NaN stays.
__device__ __forceinline__ __half ToHalfSaturated(float x, int& saturated) {
  if (fabsf(x) >= 65520.0f) {
    ++saturated;
    x = copysignf(65504.0f, x);
  }
  return __float2half_rn(x);
}

}  // namespace sessa::cuda
