// The least work that a step can be: bytes that must cross the memory bus, and arithmetic.
#pragma once

#include <cstdint>

#include "kernels/ops.h"

namespace sessa {

struct Work {
  double bytes = 0;
  double flops = 0;  // a multiply-add counts as two
};

// Numbers in the weights: all of them, and those that a step reads whole (not the embedding, unless it is the
// head).
int64_t ParameterCount(const ModelShape& shape);
int64_t ParametersReadPerStep(const ModelShape& shape);

// One decode step of `batch` sessions with `context` tokens each: the weights once, every session's state
// once.
Work DecodeWork(const StateLayout& layout, const OpsInfo& info, int64_t batch, int64_t context);

// Prefill of `batch` empty sessions with `tokens` tokens each in `steps` steps: the weights once a step, the
// state written once; projections, and both attentions over the causal triangle (2 D T^2 each).
Work PrefillWork(const StateLayout& layout, const OpsInfo& info, int64_t batch, int64_t tokens,
                 int64_t steps);

}  // namespace sessa
