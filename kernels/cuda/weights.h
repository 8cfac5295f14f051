// The model's weights on the device: matrices in bf16 with zero-padded rows, everything else in float32.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/model_shape.h"

namespace sessa::cuda {

// (outputs, pitch) bf16, row n at n * pitch; the padding is zero. `bias` (outputs) float32, or null.
struct Matrix {
  const void* weight = nullptr;
  const float* bias = nullptr;
  int32_t outputs = 0;
  int32_t padded_outputs = 0;  // rows there are; those beyond `outputs` are zero
};

struct Vector {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

struct LayerWeights {
  Vector norm;
  Matrix in;        // 2D: a, g
  Matrix project;   // 3D + 2kv + 1: q, k, v, qb, kb, gamma
  Matrix out;       // D: out_proj; no weight for one head
  Matrix residual;  // D: W_out
};

// Constant after Load. Owns device memory.
class Weights {
 public:
  // Rounds matrices to bf16 (exact for bf16 checkpoints). Waits for the copies.
  static absl::StatusOr<Weights> Load(const ModelShape& shape, const ModelTensors& tensors);

  int32_t pitch() const { return pitch_; }  // of matrix rows and bf16 activations: D rounded up to 8
  const void* embed() const { return embed_.weight; }
  const Matrix& head() const { return head_; }
  const Vector& norm() const { return norm_; }
  const float* theta() const { return theta_; }  // (d / 2) rotary frequencies; null without RoPE
  const LayerWeights& layer(int32_t i) const { return layers_[i]; }
  int64_t bytes() const { return memory_.bytes(); }

 private:
  friend class WeightPacker;
  int32_t pitch_ = 0;
  Matrix embed_, head_;
  Vector norm_;
  const float* theta_ = nullptr;
  std::vector<LayerWeights> layers_;
  DeviceBuffer memory_;
};

}  // namespace sessa::cuda
