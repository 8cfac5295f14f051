// A model of any shape with random bf16 weights, for benches and tests: speed does not depend on what they
// are.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/model_shape.h"

namespace sessa {

// The same weights for the same shape and seed. Matrices are uniform with the variance 1 / inputs, so
// activations keep a sound size through any number of layers; gamma_bias is 1.
class RandomWeights {
 public:
  RandomWeights(const ModelShape& shape, uint64_t seed);
  const ModelTensors& tensors() const { return tensors_; }

 private:
  TensorView Uniform(std::vector<int64_t> dims, float bound);
  TensorView Constant(std::vector<int64_t> dims, float value);

  uint64_t state_;
  ModelTensors tensors_;
  std::vector<std::unique_ptr<uint16_t[]>> storage_;
};

}  // namespace sessa
