// LayerNorm of a row by one warp, in an order that every kernel shares.
#pragma once

#include "kernels/cuda/device_math.cuh"

namespace sessa::cuda {

// The mean of a row and 1 / sqrt(var + eps), with the biased variance of the differences. Lane l has the
// columns 2 (l + 32 k) and the next: load(k) gives them, anything beyond the width. The first kPairs pairs
// are kept in registers; kWider: there may be more, which are loaded twice.
template <int kPairs, bool kWider, bool kWhole, typename Load>
__device__ __forceinline__ float2 NormMoments(int width, float eps, const Load& load,
                                              float2 (&kept)[kPairs]) {
  const int lane = threadIdx.x % 32;
  const auto inside = [&](int k, int e) { return kWhole || 2 * (lane + 32 * k) + e < width; };
  float even = 0.0f, odd = 0.0f;
  const auto sum = [&](int k, float2 x) {
    even += inside(k, 0) ? x.x : 0.0f;
    odd += inside(k, 1) ? x.y : 0.0f;
  };
#pragma unroll
  for (int k = 0; k < kPairs; ++k) sum(k, kept[k] = load(k));
  if (kWider) {
    for (int k = kPairs; 64 * k < width; ++k) sum(k, load(k));
  }
  const float mean = SumWarp(even + odd) / static_cast<float>(width);
  even = odd = 0.0f;
  const auto square = [&](int k, float2 x) {
    const float x0 = inside(k, 0) ? x.x - mean : 0.0f, x1 = inside(k, 1) ? x.y - mean : 0.0f;
    even = fmaf(x0, x0, even);
    odd = fmaf(x1, x1, odd);
  };
#pragma unroll
  for (int k = 0; k < kPairs; ++k) square(k, kept[k]);
  if (kWider) {
    for (int k = kPairs; 64 * k < width; ++k) square(k, load(k));
  }
  return make_float2(mean, rsqrtf(SumWarp(even + odd) / static_cast<float>(width) + eps));
}

// (x - mean) / sqrt(var + eps) of a row: store(k, normalised) takes what load(k) gave.
template <int kPairs, bool kWider, typename Load, typename Store>
__device__ __forceinline__ void NormRow(int width, float eps, const Load& load, const Store& store) {
  float2 kept[kPairs];
  const float2 moments = NormMoments<kPairs, kWider, false>(width, eps, load, kept);
  const int lane = threadIdx.x % 32;
  const auto normalise = [&](int k, float2 x) {
    if (2 * (lane + 32 * k) < width)
      store(k, make_float2((x.x - moments.x) * moments.y, (x.y - moments.x) * moments.y));
  };
#pragma unroll
  for (int k = 0; k < kPairs; ++k) normalise(k, kept[k]);
  if (kWider) {
    for (int k = kPairs; 64 * k < width; ++k) normalise(k, load(k));
  }
}

}  // namespace sessa::cuda
