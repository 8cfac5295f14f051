// GELU in its exact form (with erf, not tanh), in some 20 instructions, for epilogues.
#pragma once

#include "kernels/cuda/prefill_hopper.cuh"

namespace sessa::cuda {

// GELU(x) = x Phi(x), Phi(-|x|) = 1/2 erfc(|x| / sqrt 2) = t Q(t) exp(-x^2 / 2) with t = 1 / (1 + 0.35 |x|).
// Q interpolates erfcx at Chebyshev nodes of t for |x| <= 13.2 (beyond, float32 holds no Phi): within 3.5e-6
// of Phi, relatively, where abar is rounded to 8 bits.
__device__ __forceinline__ float FastGelu(float x) {
  const float a = fabsf(x), t = __fdividef(1.0f, fmaf(0.35f, a, 1.0f));
  float q = 0.046132864f;
  q = fmaf(q, t, -0.19023306f);
  q = fmaf(q, t, 0.21997297f);
  q = fmaf(q, t, 0.0020047504f);
  q = fmaf(q, t, 0.14601316f);
  q = fmaf(q, t, 0.13628737f);
  q = fmaf(q, t, 0.13982207f);
  const float tail = x * (t * q * Exp2(-0.72134752f * a * a));  // x Phi(-|x|)
  return x > 0 ? x - tail : tail;
}

}  // namespace sessa::cuda
