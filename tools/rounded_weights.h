// A checkpoint's weights rounded to bf16, as a user converts a model for fast serving.
#pragma once

#include <memory>
#include <vector>

#include "kernels/model_shape.h"

namespace sessa {

// Holds bf16 copies of every tensor. tensors() lives as long as this object.
class RoundedWeights {
 public:
  explicit RoundedWeights(const ModelTensors& tensors);
  const ModelTensors& tensors() const { return rounded_; }

 private:
  void Round(TensorView* tensor);

  ModelTensors rounded_;
  std::vector<std::unique_ptr<uint16_t[]>> storage_;
};

}  // namespace sessa
