// A softmax-weighted sum under way, and the number formats of state.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_math.cuh"

namespace sessa::cuda {

inline constexpr float kNoMaximum = -1e30f;  // less than any score; its difference to itself is a number
inline constexpr float kLog2E = 1.4426950408889634f;  // exponentials are base 2: scores are scaled by it

__device__ __forceinline__ float2 PairOfBf16(uint32_t bits) {
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}
__device__ __forceinline__ float2 PairOfFp16(uint32_t bits) {
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}
template <int N, typename Pair>
__device__ __forceinline__ void Unpack(const uint32_t (&words)[N], float (&out)[2 * N], const Pair& pair_of) {
#pragma unroll
  for (int e = 0; e < N; ++e) {
    const float2 pair = pair_of(words[e]);
    out[2 * e] = pair.x;
    out[2 * e + 1] = pair.y;
  }
}
__device__ __forceinline__ void UnpackBf16(const uint4& bits, float (&out)[8]) {
  Unpack<4>({bits.x, bits.y, bits.z, bits.w}, out, PairOfBf16);
}
__device__ __forceinline__ void UnpackFp16(const uint4& bits, float (&out)[8]) {
  Unpack<4>({bits.x, bits.y, bits.z, bits.w}, out, PairOfFp16);
}
__device__ __forceinline__ void UnpackBf16(const uint2& bits, float (&out)[4]) {
  Unpack<2>({bits.x, bits.y}, out, PairOfBf16);
}
__device__ __forceinline__ void UnpackFp16(const uint2& bits, float (&out)[4]) {
  Unpack<2>({bits.x, bits.y}, out, PairOfFp16);
}
__device__ __forceinline__ void Load8(const float* at, float (&out)[8]) {
  const float4 low = reinterpret_cast<const float4*>(at)[0], high = reinterpret_cast<const float4*>(at)[1];
  out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
  out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}
__device__ __forceinline__ void Store8(float* at, const float* numbers) {
  reinterpret_cast<float4*>(at)[0] = make_float4(numbers[0], numbers[1], numbers[2], numbers[3]);
  reinterpret_cast<float4*>(at)[1] = make_float4(numbers[4], numbers[5], numbers[6], numbers[7]);
}

// Adds a part's (maximum, sum) to a total: what accumulators of the total, and of the part, are to be
// multiplied by.
struct Rescale {
  float old, factor;
};
__device__ __forceinline__ Rescale AddSum(float2& total, const float2& part) {
  const float max = fmaxf(total.x, part.x);
  const float old = Exp2(total.x - max), factor = Exp2(part.x - max);
  total = make_float2(max, __fmaf_rn(part.y, factor, __fmul_rn(total.y, old)));
  return {old, factor};
}

// sum_j 2^(score_j - max) value_j, with N numbers of the value in this lane, and sum = sum_j 2^(score_j -
// max).
template <int N>
struct Softmax {
  float acc[N];
  float max, sum;

  __device__ __forceinline__ void Reset() {
    max = kNoMaximum;
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) acc[i] = 0.0f;
  }
  // Makes room for scores up to new_max >= max. Changes nothing if that is max itself.
  __device__ __forceinline__ void Raise(float new_max) {
    const float factor = Exp2(max - new_max);
    sum *= factor;
#pragma unroll
    for (int i = 0; i < N; ++i) acc[i] *= factor;
    max = new_max;
  }
};

}  // namespace sessa::cuda
