// The class behind CreateReferenceOps; internal to this folder.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/host_sampler.h"
#include "kernels/host_state.h"
#include "kernels/ops.h"
#include "kernels/reference/reference_math.h"
#include "kernels/reference/reference_weights.h"

namespace sessa::reference {

// Engine-thread only; every phase does its work before it returns.
class ReferenceOps : public Ops {
 public:
  ReferenceOps(const ModelShape& shape, const ModelTensors& tensors, const OpsOptions& options);

  const OpsInfo& info() const override { return info_; }
  const StateLayout& layout() const override { return state_.layout(); }

  int64_t AvailableStateBytes() const override { return state_.AvailableBytes(); }
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
  const Weights weights_;
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

}  // namespace sessa::reference
