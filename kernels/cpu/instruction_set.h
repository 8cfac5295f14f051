// Which kernels this CPU can run.
#pragma once

#include "kernels/cpu/kernels.h"

namespace sessa::cpu {

// Ascending: a CPU (and its operating system) that supports one supports those before it.
enum class InstructionSet { kPortable, kAvx2, kAvx512, kAvx512BF16 };

InstructionSet DetectInstructionSet();

// The kernels of a set that this program was built with; the bf16 kernels only where `bf16_weights`.
const Kernels& KernelsFor(InstructionSet set, bool bf16_weights);

}  // namespace sessa::cpu
