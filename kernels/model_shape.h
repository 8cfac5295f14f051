// Sizes and tensors of a Sessa model as a backend sees them. Equations: docs/sessa-model.md.
#pragma once

#include <cstdint>
#include <vector>

namespace sessa {

// How a number is stored, in checkpoints and in state pages.
enum class DType { kF32, kBF16, kF16 };

constexpr int64_t ByteSize(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

// Constant after the checkpoint is loaded.
struct ModelShape {
  int32_t vocab = 0;       // V
  int32_t width = 0;       // D, the residual stream; also the width of the one feedback head
  int32_t layers = 0;      // L
  int32_t heads = 0;       // H, forward query heads
  int32_t kv_heads = 0;    // Hkv, forward key/value heads; H is a multiple of it
  float norm_eps = 1e-5f;  // of every LayerNorm
  double rope_theta = 10000.0;
  bool use_rope = true;      // rotary embedding on forward q and k
  double gamma_max = 0.999;  // bound of the feedback gain, < 1
  bool tied_head = false;    // the head is the embedding

  int32_t head_width() const { return width / heads; }             // d
  int32_t kv_width() const { return kv_heads * head_width(); }     // kv
  bool has_out_proj() const { return heads > 1; }                  // the identity for one head
};

// A tensor in host memory, row-major; the bytes belong to the checkpoint and outlive PrepareWeights only.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> dims;   // [] for a scalar
  const void* data = nullptr;  // nullptr: the tensor does not exist (out_proj of a one-head model, tied head)
};

// Weights of one layer. Names are the author's; a linear layer's weight is (outputs, inputs).
struct LayerTensors {
  TensorView ln_weight, ln_bias;              // (D)
  TensorView w_in_weight, w_in_bias;          // (2D, D), (2D): rows a, then rows g
  TensorView q_weight, q_bias;                // (D, D), (D)
  TensorView k_weight, k_bias;                // (kv, D), (kv)
  TensorView v_weight, v_bias;                // (kv, D), (kv)
  TensorView fb_weight, fb_bias;              // (2D, D), (2D): rows qb, then rows kb
  TensorView out_weight;                      // (D, D), absent when H == 1
  TensorView gamma_bias;                      // scalar
  TensorView gamma_weight;                    // (1, D)
  TensorView w_out_weight, w_out_bias;        // (D, D), (D)
};

struct ModelTensors {
  TensorView embed;                    // (V, D)
  std::vector<LayerTensors> layers;    // L
  TensorView norm_weight, norm_bias;   // (D)
  TensorView head;                     // (V, D); absent when tied
};

}  // namespace sessa
