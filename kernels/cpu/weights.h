// A model's weights, packed for the kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/buffer.h"
#include "kernels/cpu/kernels.h"
#include "kernels/model_shape.h"

namespace sessa::cpu {

// A matrix and its bias in memory of its own.
struct PackedMatrix {
  Buffer<std::byte> data;
  Buffer<float> bias;
  Matrix view;  // of the two; .data == nullptr: there is no such matrix
};

struct LayerWeights {
  Buffer<float> norm_weight, norm_bias;  // (D)
  PackedMatrix w_in;                     // a (padded to 16 outputs), g
  PackedMatrix project;                  // q, k, v, qb, kb, each padded to 16 outputs
  PackedMatrix out;                      // absent in a one-head model
  PackedMatrix w_out;
  Buffer<float> gamma_weight;  // (D padded to 16)
  float gamma_bias = 0;
};

struct Weights {
  std::vector<LayerWeights> layers;
  std::vector<SectionVec> sections;  // what the outputs of `project` are, 16 at a time
  Buffer<float> norm_weight, norm_bias;
  PackedMatrix head;
  DType embed_dtype = DType::kF32;  // or kBF16
  Buffer<std::byte> embed;          // (V, D)

  int64_t bytes() const;
};

// Panels in bf16 (REQUIRES: every tensor is bf16) or float32.
Weights PackWeights(const ModelShape& shape, const ModelTensors& tensors, bool bf16);

// True when every matrix of the model is stored in bf16.
bool AllBF16(const ModelTensors& tensors);

}  // namespace sessa::cpu
