#include "kernels/cpu/simd_portable.h"
#include "kernels/cpu/table.inl.h"

namespace sessa::cpu {

const Kernels& PortableKernels() {
  static constexpr Kernels kKernels = MakeKernels<Portable, float>("portable");
  return kKernels;
}

}  // namespace sessa::cpu
