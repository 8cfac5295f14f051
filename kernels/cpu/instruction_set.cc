#include "kernels/cpu/instruction_set.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace sessa::cpu {

#if defined(__x86_64__)

namespace {

bool HasF16C() {  // clang 14 has no name for it in __builtin_cpu_supports
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

}  // namespace

InstructionSet DetectInstructionSet() {
  __builtin_cpu_init();  // the flags that it sets include what the operating system saves
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16C();
  if (!avx2) return InstructionSet::kPortable;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!avx512) return InstructionSet::kAvx2;
  return __builtin_cpu_supports("avx512bf16") ? InstructionSet::kAvx512BF16 : InstructionSet::kAvx512;
}

const Kernels& KernelsFor(InstructionSet set, bool bf16_weights) {
  switch (set) {
    case InstructionSet::kPortable:
      return PortableKernels();
    case InstructionSet::kAvx2:
      return Avx2Kernels();
    case InstructionSet::kAvx512:
      return Avx512Kernels();
    case InstructionSet::kAvx512BF16:
      break;
  }
  return bf16_weights ? Avx512BF16Kernels() : Avx512Kernels();
}

#else

InstructionSet DetectInstructionSet() { return InstructionSet::kPortable; }

const Kernels& KernelsFor(InstructionSet, bool) { return PortableKernels(); }

#endif

}  // namespace sessa::cpu
