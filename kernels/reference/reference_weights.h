// A model's weights in float32, as the reference backend keeps them.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/model_shape.h"

namespace sessa::reference {

// y = x weight^T + bias.
struct Linear {
  int32_t inputs = 0, outputs = 0;
  std::vector<float> weight;  // (outputs, inputs)
  std::vector<float> bias;    // (outputs), or empty
};

// LayerNorm's scale and shift.
struct Norm {
  std::vector<float> weight, bias;  // (D)
};

struct LayerWeights {
  Norm ln;
  Linear w_in;     // D -> 2D: a, g
  Linear q, k, v;  // D -> D, kv, kv
  Linear fb;       // D -> 2D: qb, kb
  Linear out;      // D -> D, absent (outputs == 0) in a one-head model
  Linear gamma;    // D -> 1
  Linear w_out;    // D -> D
};

struct Weights {
  std::vector<float> embed;  // (V, D)
  std::vector<LayerWeights> layers;
  Norm norm;
  std::vector<float> head;  // (V, D); empty when tied to the embedding

  const float* head_data() const { return head.empty() ? embed.data() : head.data(); }
  int64_t bytes() const;
};

Weights ConvertWeights(const ModelShape& shape, const ModelTensors& tensors);

}  // namespace sessa::reference
