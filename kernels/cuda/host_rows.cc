#include "kernels/cuda/host_rows.h"

#include <utility>

#include "kernels/cuda/step_tables.h"

namespace sessa::cuda {

absl::Status HostRows::Allocate(int32_t vocab, int32_t rows) {
  vocab_ = vocab;
  room_ = rows;
  absl::StatusOr<PinnedBuffer> logits = AllocatePinned(int64_t{rows} * vocab * 4, "logits");
  if (!logits.ok()) return logits.status();
  logits_ = std::move(*logits);
  return absl::OkStatus();
}

void HostRows::Begin(const StepBatch& batch) {
  batch_ = &batch;
  outputs_.clear();
  results_.clear();
  taken_ = 0;
  for (size_t i = 0; i < batch.outputs.size(); ++i) {
    if (!DeviceGives(batch.outputs[i])) outputs_.push_back(static_cast<int32_t>(i));
  }
}

cudaError_t HostRows::Take(int32_t first, int32_t count, const float* logits, cudaStream_t stream) {
  for (; taken_ < static_cast<int32_t>(outputs_.size()) && outputs_[taken_] < first + count; ++taken_) {
    if (taken_ - static_cast<int32_t>(results_.size()) == room_) {
      const cudaError_t error = cudaStreamSynchronize(stream);
      if (error != cudaSuccess) return error;
      Sample();
    }
    float* const to = logits_.as<float>() + (taken_ - results_.size()) * vocab_;
    const float* const from = logits + int64_t{outputs_[taken_] - first} * vocab_;
    const cudaError_t error =
        cudaMemcpyAsync(to, from, vocab_ * sizeof(float), cudaMemcpyDeviceToHost, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

void HostRows::Sample() {
  const int32_t first = static_cast<int32_t>(results_.size());
  for (int32_t i = first; i < taken_; ++i) {
    const float* const logits = logits_.as<float>() + int64_t{i - first} * vocab_;
    results_.push_back(
        SampleRow(absl::MakeConstSpan(logits, vocab_), batch_->outputs[outputs_[i]], scratch_));
  }
}

}  // namespace sessa::cuda
