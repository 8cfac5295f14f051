// The kernel table of one instruction set.
#pragma once

#include "kernels/cpu/attention.inl.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/phases.inl.h"

namespace sessa::cpu {

// Operand: float or uint16_t (bf16).
template <class S, class Operand>
constexpr Kernels MakeKernels(const char* name) {
  Kernels kernels{};
  kernels.name = name;
  kernels.bf16 = sizeof(Operand) == 2;
  kernels.layer_norm = LayerNorm<S, Operand>;
  kernels.norm_in = NormIn<S, Operand>;
  kernels.project = Project<S, Operand>;
  kernels.feedback_out = FeedbackOut<S, Operand>;
  kernels.solve = Solve<S, Operand>;
  kernels.residual_out = ResidualOut<S, Operand>;
  kernels.head = Head<S, Operand>;
  kernels.score = Score<S>;
  kernels.softmax = Softmax<S>;
  kernels.accumulate = Accumulate<S>;
  kernels.normalize = Normalize<S, Operand>;
  return kernels;
}

}  // namespace sessa::cpu
