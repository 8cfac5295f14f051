#include "kernels/reference/reference_ops.h"

#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/host_rates.h"
#include "kernels/reference/reference_backend.h"

namespace sessa {
namespace reference {

ReferenceOps::ReferenceOps(const ModelShape& shape, const ModelTensors& tensors, const OpsOptions& options)
    : shape_(shape),
      weights_(ConvertWeights(shape, tensors)),
      theta_(shape.use_rope ? RopeFrequencies(shape) : std::vector<float>()),
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
  const auto outputs = static_cast<int32_t>(batch_->outputs.size());
  if (logit_rows_ != outputs) logit_rows_ = 0;  // none, or more than a slice: they are not kept
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
  Linear linear{kSize, kSize, std::vector<float>(kSize * kSize, 0.5f), {}};
  std::vector<float> x(kSize * kSize, 0.5f), y(kSize * kSize);
  Apply(linear, x.data(), kSize, y.data());  // touches the memory
  const auto start = std::chrono::steady_clock::now();
  Apply(linear, x.data(), kSize, y.data());
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {MeasureHostReadRate(1), 2.0 * kSize * kSize * kSize / elapsed.count()};
}

}  // namespace reference

absl::StatusOr<std::unique_ptr<Ops>> CreateReferenceOps(const ModelShape& shape, const ModelTensors& tensors,
                                                        const OpsOptions& options) {
  return std::make_unique<reference::ReferenceOps>(shape, tensors, options);
}

}  // namespace sessa
