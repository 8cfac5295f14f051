// A backend that hands everything on to another: for tests that look at a few calls.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kernels/ops.h"

namespace sessa {

class ForwardingOps : public Ops {
 public:
  explicit ForwardingOps(std::unique_ptr<Ops> ops) : ops_(std::move(ops)) {}

  const OpsInfo& info() const override { return ops_->info(); }
  const StateLayout& layout() const override { return ops_->layout(); }
  int64_t AvailableStateBytes() const override { return ops_->AvailableStateBytes(); }
  absl::Status AllocateState(int32_t pages, int32_t open_pages) override {
    return ops_->AllocateState(pages, open_pages);
  }
  void CopyPage(PageId from, PageId to) override { ops_->CopyPage(from, to); }
  void CopyOpenPage(PageId from, PageId to) override { ops_->CopyOpenPage(from, to); }
  absl::Status ReadState(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                         float* out) override {
    return ops_->ReadState(page, layer, plane, first_row, rows, out);
  }
  void BeginStep(const StepBatch& batch) override { ops_->BeginStep(batch); }
  bool NextPass() override { return ops_->NextPass(); }
  void Embed() override { ops_->Embed(); }
  void NormIn(int32_t layer) override { ops_->NormIn(layer); }
  void ProjectAppend(int32_t layer) override { ops_->ProjectAppend(layer); }
  void Attend(int32_t layer) override { ops_->Attend(layer); }
  void FeedbackOut(int32_t layer) override { ops_->FeedbackOut(layer); }
  void PrefillSolve(int32_t layer) override { ops_->PrefillSolve(layer); }
  void ResidualOut(int32_t layer) override { ops_->ResidualOut(layer); }
  void Head(int32_t first, int32_t count) override { ops_->Head(first, count); }
  void Sample(int32_t first, int32_t count) override { ops_->Sample(first, count); }
  int32_t pass_first_output() const override { return ops_->pass_first_output(); }
  int32_t pass_output_count() const override { return ops_->pass_output_count(); }
  void EndStep() override { ops_->EndStep(); }
  absl::StatusOr<StepResult> Collect() override { return ops_->Collect(); }
  bool CanRunAhead(const SampleParams& params) const override { return ops_->CanRunAhead(params); }
  absl::StatusOr<std::vector<float>> ReadLogits(int32_t output) override { return ops_->ReadLogits(output); }

 private:
  const std::unique_ptr<Ops> ops_;
};

}  // namespace sessa
