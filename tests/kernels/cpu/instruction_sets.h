// The instruction sets that this machine can run, for tests that go through all of them.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/instruction_set.h"

namespace sessa::cpu {

struct NamedSet {
  InstructionSet set;
  std::string name;
};

inline std::vector<NamedSet> RunnableSets() {
  std::vector<NamedSet> sets = {{InstructionSet::kPortable, "portable"},
                                {InstructionSet::kAvx2, "avx2"},
                                {InstructionSet::kAvx512, "avx512"},
                                {InstructionSet::kAvx512BF16, "avx512_bf16"}};
  sets.resize(static_cast<size_t>(DetectInstructionSet()) + 1);
  return sets;
}

inline std::string SetName(const NamedSet& set) { return set.name; }

// Kernels of the set as a model with bf16 weights gets them.
inline const Kernels& BF16ModelKernels(const NamedSet& set) {
  return KernelsFor(set.set, /*bf16_weights=*/true);
}

}  // namespace sessa::cpu
