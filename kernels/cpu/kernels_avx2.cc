#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/table.inl.h"

namespace sessa::cpu {

const Kernels& Avx2Kernels() {
  static constexpr Kernels kKernels = MakeKernels<Avx2, float>("AVX2");
  return kKernels;
}

}  // namespace sessa::cpu
