#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/table.inl.h"

namespace sessa::cpu {

const Kernels& Avx512Kernels() {
  static constexpr Kernels kKernels = MakeKernels<Avx512, float>("AVX-512");
  return kKernels;
}

}  // namespace sessa::cpu
