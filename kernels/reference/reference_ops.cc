#include "kernels/reference/reference_ops.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/host_rates.h"
#include "kernels/host_sampler.h"
#include "kernels/host_state.h"
#include "kernels/reference/reference_math.h"
#include "kernels/reference/reference_weights.h"

namespace sessa {
namespace {

using reference::Apply;
using reference::BlockSoftmax;
using reference::Dot;

class ReferenceOps : public Ops {
 public:
  ReferenceOps(const ModelShape& shape, const ModelTensors& tensors, const OpsOptions& options);

  const OpsInfo& info() const override { return info_; }
  const StateLayout& layout() const override { return state_.layout(); }

  int64_t AvailableStateBytes() const override { return HostState::AvailableBytes(); }
  absl::Status AllocateState(int32_t pages, int32_t open_pages) override {
    return state_.Allocate(pages, open_pages);
  }
  void CopyPage(PageId from, PageId to) override { state_.CopyPage(from, to); }
  void CopyOpenPage(PageId from, PageId to) override { state_.CopyOpenPage(from, to); }
  absl::Status ReadState(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                         float* out) override {
    return state_.Read(page, layer, plane, first_row, rows, out);
  }
  DeviceRates MeasureRates() override;
  void FillState(uint32_t seed) override { state_.FillRandom(seed); }

  void BeginStep(const StepBatch& batch) override;
  bool NextPass() override { return std::exchange(pass_pending_, false); }
  void Embed() override;
  void NormIn(int32_t layer) override;
  void ProjectAppend(int32_t layer) override;
  void Attend(int32_t layer) override;
  void FeedbackOut(int32_t layer) override;
  void PrefillSolve(int32_t layer) override;
  void ResidualOut(int32_t layer) override;
  void Head(int32_t first, int32_t count) override;
  void Sample(int32_t first, int32_t count) override;
  int32_t pass_first_output() const override { return 0; }
  int32_t pass_output_count() const override { return static_cast<int32_t>(batch_->outputs.size()); }
  void EndStep() override;
  absl::StatusOr<StepResult> Collect() override;

  bool CanRunAhead(const SampleParams&) const override { return false; }
  absl::StatusOr<std::vector<float>> ReadLogits(int32_t output) override;

 private:
  // A row of the batch: its segment and absolute position.
  struct Row {
    const Segment* segment;
    int64_t position;
  };
  PageId PageOf(const Row& row, int64_t position) const {
    return batch_->pages[row.segment->page_begin + position / kPageTokens];
  }
  bool compact() const { return layout().dtype == StateDtype::kCompact; }

  void StoreRow(const Row& row, int32_t layer, Plane plane, const float* values);
  // The first `rows` rows of block `block` of a plane as `row` reads them; scratch of kPageTokens rows.
  const float* LoadBlock(const Row& row, int32_t layer, Plane plane, int64_t block, int32_t rows,
                         std::vector<float>* scratch) const;
  void ForwardAttention(int32_t layer, int32_t row);
  void FeedbackAttention(int32_t layer, int32_t row);

  const ModelShape shape_;
  const reference::Weights weights_;
  const std::vector<float> theta_;  // RoPE
  OpsInfo info_;
  HostState state_;
  std::vector<int32_t> slots_;  // (max_segments) the token sampled last into each slot

  // The step in progress.
  const StepBatch* batch_ = nullptr;
  bool pass_pending_ = false;
  StepResult result_;
  std::chrono::steady_clock::time_point started_;
  std::vector<Row> rows_;
  std::vector<float> x_, abar_, g_, q_, qb_, o_, s_;  // (rows, D); s_ is f, then s
  std::vector<float> gamma_, ctx_;                    // (rows), (rows, D)
  std::vector<float> logits_;                         // (count, V) of the last slice
  int32_t logit_rows_ = 0;

  // Scratch.
  std::vector<float> wide_, keys_, values_;
  std::vector<BlockSoftmax> head_softmax_;  // (H), head width
  BlockSoftmax feedback_softmax_;           // D
  SampleScratch sampler_;
};

ReferenceOps::ReferenceOps(const ModelShape& shape, const ModelTensors& tensors, const OpsOptions& options)
    : shape_(shape),
      weights_(reference::ConvertWeights(shape, tensors)),
      theta_(shape.use_rope ? reference::RopeFrequencies(shape) : std::vector<float>()),
      state_(StateLayout{shape, options.state_dtype}),
      slots_(options.max_segments),
      keys_(int64_t{kPageTokens} * shape.width),
      values_(int64_t{kPageTokens} * shape.width),
      head_softmax_(shape.heads, BlockSoftmax(shape.head_width())),
      feedback_softmax_(shape.width) {
  info_.name = "reference";
  info_.description = "reference: plain float32 loops, 1 thread (slow; made to compare with)";
  info_.max_output_rows = 512;
  info_.weight_bytes = weights_.bytes();
}

void ReferenceOps::BeginStep(const StepBatch& batch) {
  batch_ = &batch;
  pass_pending_ = true;
  result_ = StepResult();
  started_ = std::chrono::steady_clock::now();
  rows_.clear();
  for (const Segment& segment : batch.segments) {
    for (int32_t i = 0; i < segment.rows; ++i) rows_.push_back({&segment, segment.start + i});
  }
  const size_t wide = rows_.size() * shape_.width;
  for (std::vector<float>* activation : {&x_, &abar_, &g_, &q_, &qb_, &o_, &s_, &ctx_})
    activation->resize(wide);
  gamma_.resize(rows_.size());
}

// x_0 = embed[token]
void ReferenceOps::Embed() {
  const int32_t d = shape_.width;
  for (size_t r = 0; r < rows_.size(); ++r) {
    const int32_t slot = rows_[r].segment->token_slot;
    const int64_t token = slot >= 0 ? slots_[slot] : batch_->tokens[r];
    std::memcpy(&x_[r * d], &weights_.embed[token * d], d * sizeof(float));
  }
}

// [a, g] = LayerNorm(x) W_in^T + b_in;  abar = GELU(a)
void ReferenceOps::NormIn(int32_t layer) {
  const reference::LayerWeights& w = weights_.layers[layer];
  const int32_t d = shape_.width, rows = static_cast<int32_t>(rows_.size());
  for (int32_t r = 0; r < rows; ++r) {
    LayerNorm(w.ln, shape_.norm_eps, &x_[int64_t{r} * d], d, &abar_[int64_t{r} * d]);
  }
  wide_.resize(int64_t{rows} * 2 * d);
  Apply(w.w_in, abar_.data(), rows, wide_.data());
  for (int32_t r = 0; r < rows; ++r) {
    const float* a = &wide_[int64_t{r} * 2 * d];
    for (int32_t i = 0; i < d; ++i) abar_[int64_t{r} * d + i] = reference::Gelu(a[i]);
    std::memcpy(&g_[int64_t{r} * d], a + d, d * sizeof(float));
  }
}

// q, k, v, qb, kb and gamma = gamma_max tanh(gamma_bias + abar . w_gamma); RoPE on q and k.
void ReferenceOps::ProjectAppend(int32_t layer) {
  const reference::LayerWeights& w = weights_.layers[layer];
  const int32_t d = shape_.width, kv = shape_.kv_width(), rows = static_cast<int32_t>(rows_.size());
  Apply(w.q, abar_.data(), rows, q_.data());
  for (int32_t r = 0; r < rows; ++r) reference::Rope(theta_, rows_[r].position, d, &q_[int64_t{r} * d]);

  wide_.resize(int64_t{rows} * 2 * d);
  Apply(w.k, abar_.data(), rows, wide_.data());
  for (int32_t r = 0; r < rows; ++r) {
    reference::Rope(theta_, rows_[r].position, kv, &wide_[int64_t{r} * kv]);
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

// logits = LayerNorm(x_L) head^T
void ReferenceOps::Head(int32_t first, int32_t count) {
  const int32_t d = shape_.width, vocab = shape_.vocab;
  wide_.resize(int64_t{count} * d);
  logits_.resize(int64_t{count} * vocab);
  logit_rows_ = count;
  for (int32_t i = 0; i < count; ++i) {
    const int64_t row = batch_->outputs[first + i].row;
    LayerNorm(weights_.norm, shape_.norm_eps, &x_[row * d], d, &wide_[int64_t{i} * d]);
  }
  for (int64_t token = 0; token < vocab; ++token) {
    const float* weight = weights_.head_data() + token * d;
    for (int64_t i = 0; i < count; ++i) logits_[i * vocab + token] = Dot(&wide_[i * d], weight, d);
  }
}

void ReferenceOps::Sample(int32_t first, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    const OutputRow& output = batch_->outputs[first + i];
    const absl::Span<const float> logits(&logits_[int64_t{i} * shape_.vocab], shape_.vocab);
    result_.outputs.push_back(SampleRow(logits, output, sampler_));
    if (output.slot >= 0) slots_[output.slot] = result_.outputs.back().token;
  }
}

void ReferenceOps::EndStep() {
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
  result_.device_seconds = elapsed.count();
  if (batch_->outputs.empty()) logit_rows_ = 0;
}

absl::StatusOr<StepResult> ReferenceOps::Collect() { return std::move(result_); }

absl::StatusOr<std::vector<float>> ReferenceOps::ReadLogits(int32_t output) {
  if (output < 0 || output >= logit_rows_) {
    return absl::InvalidArgumentError(
        absl::StrCat("no logits of output ", output, "; there are ", logit_rows_));
  }
  const auto begin = logits_.begin() + int64_t{output} * shape_.vocab;
  return std::vector<float>(begin, begin + shape_.vocab);
}

DeviceRates ReferenceOps::MeasureRates() {
  constexpr int32_t kSize = 512;
  reference::Linear linear{kSize, kSize, std::vector<float>(kSize * kSize, 0.5f), {}};
  std::vector<float> x(kSize * kSize, 0.5f), y(kSize * kSize);
  Apply(linear, x.data(), kSize, y.data());  // touches the memory
  const auto start = std::chrono::steady_clock::now();
  Apply(linear, x.data(), kSize, y.data());
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {MeasureHostReadRate(1), 2.0 * kSize * kSize * kSize / elapsed.count()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CreateReferenceOps(const ModelShape& shape, const ModelTensors& tensors,
                                                        const OpsOptions& options) {
  return std::make_unique<ReferenceOps>(shape, tensors, options);
}

}  // namespace sessa
