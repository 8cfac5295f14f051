// The formulas of docs/sessa-model.md on single rows. Every result depends on its own row alone.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/reference/reference_weights.h"

namespace sessa::reference {

// Sum of a[i] * b[i] in one fixed order.
float Dot(const float* a, const float* b, int32_t n);

// y (rows, outputs) = x (rows, inputs) weight^T + bias.
void Apply(const Linear& linear, const float* x, int32_t rows, float* y);

// y = (x - mean) / sqrt(variance + eps) * weight + bias, biased variance.
void LayerNorm(const Norm& norm, float eps, const float* x, int32_t width, float* y);

// The exact erf form.
float Gelu(float x);

// theta_i = rope_theta^(-2i/d), computed in double and rounded to float32; (d / 2).
std::vector<float> RopeFrequencies(const ModelShape& shape);
// Turns each neighbouring pair (2i, 2i+1) of every head of `x` (width) by position * theta_i.
void Rope(const std::vector<float>& theta, int64_t position, int32_t width, float* x);

// Softmax-weighted sum of values, fed block by block in ascending order:
//   out = sum_j exp(score_j) value_j / sum_j exp(score_j).
class BlockSoftmax {
 public:
  explicit BlockSoftmax(int32_t width) : out_(width), block_(width) {}
  void Reset();
  // rows <= 64 scores, and their values at values + j * stride.
  void Merge(const float* scores, int32_t rows, const float* values, int32_t stride);
  void Finish(float* out) const;  // (width); at least one row was merged

 private:
  float max_ = 0, sum_ = 0;
  std::vector<float> out_, block_;
};

}  // namespace sessa::reference
