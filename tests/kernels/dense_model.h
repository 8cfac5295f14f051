// docs/sessa-model.md once more, in float64 with whole matrices and nothing clever: an independent check for
// shapes that the golden cases do not have.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/model_shape.h"

namespace sessa {

struct DenseResult {
  std::vector<float> logits;          // (T, V)
  std::vector<std::vector<float>> s;  // [layer] (T, D)
};

DenseResult RunDense(const ModelShape& shape, const ModelTensors& tensors, absl::Span<const int32_t> tokens);

}  // namespace sessa
