// The phases of a layer: docs/sessa-model.md, "Layer" and "Mixer".
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/half.h"
#include "kernels/reference/reference_backend.h"

namespace sessa::reference {

// [a, g] = LayerNorm(x) W_in^T + b_in;  abar = GELU(a)
void ReferenceOps::NormIn(int32_t layer) {
  const LayerWeights& w = weights_.layers[layer];
  const int32_t d = shape_.width, rows = static_cast<int32_t>(rows_.size());
  for (int32_t r = 0; r < rows; ++r) {
    LayerNorm(w.ln, shape_.norm_eps, &x_[int64_t{r} * d], d, &abar_[int64_t{r} * d]);
  }
  wide_.resize(int64_t{rows} * 2 * d);
  Apply(w.w_in, abar_.data(), rows, wide_.data());
  for (int32_t r = 0; r < rows; ++r) {
    const float* a = &wide_[int64_t{r} * 2 * d];
    for (int32_t i = 0; i < d; ++i) abar_[int64_t{r} * d + i] = Gelu(a[i]);
    std::memcpy(&g_[int64_t{r} * d], a + d, d * sizeof(float));
  }
}

// q, k, v, qb, kb and gamma = gamma_max tanh(gamma_bias + abar . w_gamma); RoPE on q and k.
void ReferenceOps::ProjectAppend(int32_t layer) {
  const LayerWeights& w = weights_.layers[layer];
  const int32_t d = shape_.width, kv = shape_.kv_width(), rows = static_cast<int32_t>(rows_.size());
  Apply(w.q, abar_.data(), rows, q_.data());
  for (int32_t r = 0; r < rows; ++r) Rope(theta_, rows_[r].position, d, &q_[int64_t{r} * d]);

  wide_.resize(int64_t{rows} * 2 * d);
  Apply(w.k, abar_.data(), rows, wide_.data());
  for (int32_t r = 0; r < rows; ++r) {
    Rope(theta_, rows_[r].position, kv, &wide_[int64_t{r} * kv]);
    StoreRow(rows_[r], layer, Plane::kK, &wide_[int64_t{r} * kv]);
  }
  Apply(w.v, abar_.data(), rows, wide_.data());
  for (int32_t r = 0; r < rows; ++r) StoreRow(rows_[r], layer, Plane::kV, &wide_[int64_t{r} * kv]);

  Apply(w.fb, abar_.data(), rows, wide_.data());
  for (int32_t r = 0; r < rows; ++r) {
    const float* qb_kb = &wide_[int64_t{r} * 2 * d];
    std::memcpy(&qb_[int64_t{r} * d], qb_kb, d * sizeof(float));
    StoreRow(rows_[r], layer, Plane::kKb, qb_kb + d);
  }
  Apply(w.gamma, abar_.data(), rows, gamma_.data());
  for (float& gamma : gamma_) gamma = static_cast<float>(shape_.gamma_max) * std::tanh(gamma);
}

void ReferenceOps::StoreRow(const Row& row, int32_t layer, Plane plane, const float* values) {
  const PageId page = PageOf(row, row.position);
  const int32_t slot = row.position % kPageTokens, width = layout().PlaneWidth(plane);
  if (!compact()) {
    std::memcpy(state_.FloatRow(page, layer, plane, slot), values, width * sizeof(float));
    return;
  }
  uint16_t* out = state_.HalfRow(page, layer, plane, slot);
  if (plane != Plane::kS) {
    for (int32_t i = 0; i < width; ++i) out[i] = FloatToBF16(values[i]);
    return;
  }
  for (int32_t i = 0; i < width; ++i) {
    out[i] = FloatToFP16(values[i]);
    result_.state_saturations += SaturatesFP16(values[i]);
  }
  std::memcpy(state_.OpenRow(row.segment->open_page, layer, slot), values, width * sizeof(float));
}

const float* ReferenceOps::LoadBlock(const Row& row, int32_t layer, Plane plane, int64_t block, int32_t rows,
                                     std::vector<float>* scratch) const {
  const PageId page = PageOf(row, block * kPageTokens);
  if (!compact()) return state_.FloatRow(page, layer, plane);
  if (plane == Plane::kS && block == row.position / kPageTokens) {
    return state_.OpenRow(row.segment->open_page, layer);
  }
  const uint16_t* in = state_.HalfRow(page, layer, plane);
  const int32_t numbers = rows * layout().PlaneWidth(plane);
  for (int32_t i = 0; i < numbers; ++i) {
    (*scratch)[i] = plane == Plane::kS ? FP16ToFloat(in[i]) : BF16ToFloat(in[i]);
  }
  return scratch->data();
}

// o_t,h = sum_{j<=t} softmax_j(q_t,h . k_j,h' d^-1/2) v_j,h',  h' = floor(h / (H / Hkv))
void ReferenceOps::ForwardAttention(int32_t layer, int32_t r) {
  const Row& row = rows_[r];
  const int32_t head_width = shape_.head_width(), kv = shape_.kv_width();
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_width));
  float scores[kPageTokens];
  for (BlockSoftmax& softmax : head_softmax_) softmax.Reset();
  for (int64_t block = 0; block <= row.position / kPageTokens; ++block) {
    const int32_t rows = std::min<int64_t>(kPageTokens, row.position + 1 - block * kPageTokens);
    const float* k = LoadBlock(row, layer, Plane::kK, block, rows, &keys_);
    const float* v = LoadBlock(row, layer, Plane::kV, block, rows, &values_);
    for (int32_t h = 0; h < shape_.heads; ++h) {
      const float* q = &q_[int64_t{r} * shape_.width + h * head_width];
      const int32_t offset = h / (shape_.heads / shape_.kv_heads) * head_width;
      for (int32_t j = 0; j < rows; ++j) scores[j] = scale * Dot(q, k + int64_t{j} * kv + offset, head_width);
      head_softmax_[h].Merge(scores, rows, v + offset, kv);
    }
  }
  for (int32_t h = 0; h < shape_.heads; ++h) {
    head_softmax_[h].Finish(&o_[int64_t{r} * shape_.width + h * head_width]);
  }
}

// ctx_t = sum_{j<t} softmax_{j<t}(qb_t . kb_j D^-1/2) s_j;  0 at t = 0
void ReferenceOps::FeedbackAttention(int32_t layer, int32_t r) {
  const Row& row = rows_[r];
  const int32_t d = shape_.width;
  float* ctx = &ctx_[int64_t{r} * d];
  if (row.position == 0) {
    std::fill(ctx, ctx + d, 0.0f);
    return;
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  float scores[kPageTokens];
  feedback_softmax_.Reset();
  for (int64_t block = 0; block * kPageTokens < row.position; ++block) {
    const int32_t rows = std::min<int64_t>(kPageTokens, row.position - block * kPageTokens);
    const float* kb = LoadBlock(row, layer, Plane::kKb, block, rows, &keys_);
    const float* s = LoadBlock(row, layer, Plane::kS, block, rows, &values_);
    for (int32_t j = 0; j < rows; ++j) scores[j] = scale * Dot(&qb_[int64_t{r} * d], kb + int64_t{j} * d, d);
    feedback_softmax_.Merge(scores, rows, s, d);
  }
  feedback_softmax_.Finish(ctx);
}

void ReferenceOps::Attend(int32_t layer) {
  for (int32_t r = 0; r < static_cast<int32_t>(rows_.size()); ++r) {
    ForwardAttention(layer, r);
    if (rows_[r].segment->rows == 1) FeedbackAttention(layer, r);
  }
}

// f = o W_o^T;  s = f + gamma ctx where ctx is there already.
void ReferenceOps::FeedbackOut(int32_t layer) {
  const int32_t d = shape_.width;
  if (shape_.has_out_proj()) {
    Apply(weights_.layers[layer].out, o_.data(), static_cast<int32_t>(rows_.size()), s_.data());
  } else {
    s_ = o_;
  }
  for (size_t r = 0; r < rows_.size(); ++r) {
    if (rows_[r].segment->rows > 1) continue;
    for (int32_t i = 0; i < d; ++i) s_[r * d + i] += gamma_[r] * ctx_[r * d + i];
    StoreRow(rows_[r], layer, Plane::kS, &s_[r * d]);
  }
}

// (I - B) s = f with B[t, j] = gamma_t alpha_t,j: forward substitution, a row at a time.
void ReferenceOps::PrefillSolve(int32_t layer) {
  const int32_t d = shape_.width;
  for (size_t r = 0; r < rows_.size(); ++r) {
    if (rows_[r].segment->rows == 1) continue;
    FeedbackAttention(layer, static_cast<int32_t>(r));
    for (int32_t i = 0; i < d; ++i) s_[r * d + i] += gamma_[r] * ctx_[r * d + i];
    StoreRow(rows_[r], layer, Plane::kS, &s_[r * d]);
  }
}

// x = x + (s * g) W_out^T + b_out
void ReferenceOps::ResidualOut(int32_t layer) {
  for (size_t i = 0; i < x_.size(); ++i) s_[i] *= g_[i];
  Apply(weights_.layers[layer].w_out, s_.data(), static_cast<int32_t>(rows_.size()), o_.data());
  for (size_t i = 0; i < x_.size(); ++i) x_[i] += o_[i];
}

}  // namespace sessa::reference
