// The CPU backend's Ops: see cpu_ops.h.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/activations.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/buffer.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/rope_table.h"
#include "kernels/cpu/weights.h"
#include "kernels/cpu/worker_pool.h"
#include "kernels/host_sampler.h"
#include "kernels/host_state.h"
#include "kernels/ops.h"

namespace sessa::cpu {

// What was chosen for a model on this machine.
struct Choice {
  const Kernels* kernels;
  bool bf16_scores;  // q . k in bf16 too: the keys are
  std::string description;
};

class Backend final : public Ops {
 public:
  Backend(const Choice& choice, const ModelShape& shape, const ModelTensors& tensors,
          const OpsOptions& options);

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

  void BeginStep(const StepBatch& batch) override;
  bool NextPass() override { return std::exchange(pass_pending_, false); }
  void Embed() override;
  void NormIn(int32_t layer) override;
  void ProjectAppend(int32_t layer) override;
  void Attend(int32_t layer) override { attention_.Attend(layer); }
  void FeedbackOut(int32_t layer) override;
  void PrefillSolve(int32_t layer) override;
  void ResidualOut(int32_t layer) override;
  void Head(int32_t first, int32_t count) override;
  void Sample(int32_t first, int32_t count) override;
  int32_t pass_first_output() const override { return 0; }
  int32_t pass_output_count() const override { return static_cast<int32_t>(batch_->outputs.size()); }
  void EndStep() override;
  absl::StatusOr<StepResult> Collect() override { return std::move(result_); }

  bool CanRunAhead(const SampleParams&) const override { return false; }
  double WorkerCpuSeconds() const override { return pool_.WorkerCpuSeconds(); }
  absl::StatusOr<std::vector<float>> ReadLogits(int32_t output) override;

  DeviceRates MeasureRates() override;
  void FillState(uint32_t seed) override { state_.FillRandom(seed); }

 private:
  // Of one thread.
  struct alignas(64) Scratch {
    Buffer<std::byte> normed;        // operand: LayerNorm of a tile's rows
    Tile normed_tile{-1, -1, 0, 0};  // which rows those are
    SampleScratch sampler;
  };

  int32_t rows() const { return static_cast<int32_t>(act_.rows.size()); }
  void PlaceRows();
  void FillRope();
  // LayerNorm of the tile's rows, once a thread and phase.
  const void* Normed(const LayerNormArgs& norm, const Tile& tile, int thread);
  void ForgetNormed();
  float Gamma(int32_t layer, int64_t row) const;
  FeedbackOutArgs FeedbackArgs(int32_t layer);

  const ModelShape shape_;
  const Kernels& kernels_;
  const bool bf16_scores_;
  const int32_t max_rows_;
  Weights weights_;
  HostState state_;
  WorkerPool pool_;
  Activations act_;
  Attention attention_;
  std::vector<RopeTable> rope_table_;  // one, or none
  Buffer<float> rope_;                 // (max_rows, 2, row width)
  std::vector<Scratch> scratch_;       // by thread
  std::vector<int32_t> slots_;         // (max_segments) the token sampled last into each slot
  OpsInfo info_;

  // The step in progress.
  const StepBatch* batch_ = nullptr;
  bool pass_pending_ = false;
  StepResult result_;
  std::chrono::steady_clock::time_point started_;
  std::vector<int32_t> output_rows_;
  Buffer<float> logits_;  // (kMaxOutputRows, V) of the last slice
  int32_t logit_rows_ = 0;
};

}  // namespace sessa::cpu
