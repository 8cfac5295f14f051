// The CUDA backend. A step is a decode pass of its one-row segments, replayed from a captured graph once the
// batch bucket is known, and an eager prefill pass of the others; its tables go up in one copy and its tokens
// come back in another. Kernels: kernels.h, prefill.h; how they work: docs/kernels.md.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/decode_graphs.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/few_rows_pass.h"
#include "kernels/cuda/host_rows.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/lt_gemm.h"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/prefill_linear.h"
#include "kernels/cuda/state_slab.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/cuda/weights.h"
#include "kernels/ops.h"

namespace sessa::cuda {

// As CreateOpsFn. UNAVAILABLE when there is no driver, no card, or one that is too old; UNIMPLEMENTED for a
// shape that the kernels cannot run; INVALID_ARGUMENT for an option; RESOURCE_EXHAUSTED when memory does not
// suffice; INTERNAL when the card fails. The message says which.
absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(const ModelShape& shape, const ModelTensors& tensors,
                                                   const OpsOptions& options);

// One thread at a time, and a step from BeginStep to EndStep by one; its current device becomes the
// backend's.
class CudaOps : public Ops {
 public:
  CudaOps(const ModelShape& shape, const OpsOptions& options);
  ~CudaOps() override;
  // Allocates everything but the state; once, before anything else.
  absl::Status Start(const ModelTensors& tensors);

  const OpsInfo& info() const override { return info_; }
  const StateLayout& layout() const override { return slab_.layout(); }

  int64_t AvailableStateBytes() const override;
  absl::Status AllocateState(int32_t pages, int32_t open_pages) override;
  void CopyPage(PageId from, PageId to) override;
  void CopyOpenPage(PageId from, PageId to) override;
  absl::Status ReadState(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                         float* out) override;

  void BeginStep(const StepBatch& batch) override;
  bool NextPass() override;
  void Embed() override;
  void NormIn(int32_t layer) override;
  void ProjectAppend(int32_t layer) override;
  void Attend(int32_t layer) override;
  void FeedbackOut(int32_t layer) override;
  void PrefillSolve(int32_t layer) override;
  void ResidualOut(int32_t layer) override;
  void Head(int32_t first, int32_t count) override;
  void Sample(int32_t first, int32_t count) override;
  int32_t pass_first_output() const override;
  int32_t pass_output_count() const override;
  void EndStep() override;
  absl::StatusOr<StepResult> Collect() override;
  bool CanRunAhead(const SampleParams& params) const override { return params.IsPlain(); }
  absl::StatusOr<std::vector<float>> ReadLogits(int32_t output) override;
  DeviceRates MeasureRates() override;
  void FillState(uint32_t seed) override;

 private:
  static constexpr int kStepsInFlight = 2;

  // What a step keeps until it is collected.
  struct Step {
    const StepBatch* batch = nullptr;
    StepPlan plan{TableLayout(0)};
    PrefillPlan prefill;
    PinnedBuffer tables, prefill_table, results;
    HostRows host_rows;
    bool few_rows_only = false;   // the few-rows kernel runs all rows
    bool results_copied = false;  // by the kernel that drew them
    cudaEvent_t begin = nullptr, end = nullptr;
  };
  enum class Pass { kNone, kDecode, kPrefill, kDone };

  absl::Status StartDevice();
  absl::Status StartBuffers();
  absl::Status Describe(const cudaDeviceProp& device);

  // Before any other call to CUDA: the calling thread may be new, and each begins with device 0.
  void TakeDevice();
  // Keeps the first error; once there is one, phases do nothing and Collect reports it.
  void Check(cudaError_t error, const char* what);
  void Check(const absl::Status& status);

  // Room for the tables of steps. Growing device memory drops the captured graphs.
  absl::Status ReserveTables(int64_t bytes);
  absl::Status ReserveDevice(DeviceBuffer& buffer, int64_t bytes, const char* what);
  static absl::Status ReservePinned(PinnedBuffer& buffer, int64_t bytes, const char* what);
  void PlanPrefillRows(Step& step);
  void StartDecode();
  void FinishDecode();
  void TakeHostRows(int32_t first, int32_t count);
  void SampleHostRows(Step& step, StepResult* result);

  bool decode() const { return pass_ == Pass::kDecode; }
  int32_t pass_rows() const;         // padding included
  const RowMeta* row_table() const;  // of the pass, on the device
  const OutputMeta* output_table(int32_t first) const;
  template <typename T>
  T* DeviceTable(int64_t offset) const {
    return reinterpret_cast<T*>(tables_.as() + offset);
  }
  int32_t LogitsRow(int32_t first) const;
  // Whether the decode pass but for sampling is one kernel, which the first phase launches.
  bool few_rows() const { return decode() && few_rows_.Takes(step_->plan); }
  void RunFewRows();
  DecodeGraphs::Pass graph_pass() const { return {step_->plan.row_bucket, step_->plan.decode_outputs > 0}; }
  AttentionParams DecodeAttention(int32_t layer) const;
  PrefillContext Prefill(int32_t layer) const;
  // Whether the prefill solve makes f and u itself.
  bool SolveFuses() const;
  PrefillFeedbackParams PrefillFeedback(int32_t layer) const;
  PrefillLinear PrefillProduct(const Matrix& matrix, const void* x) const;
  // y = X W^T with an epilogue: fused, or over cuBLASLt's product (prefill on other cards or in float32
  // state).
  template <typename Epilogue>
  void Linear(const Matrix& matrix, const void* x, const Epilogue& epilogue, const char* what);
  SampleResult* device_results() const {
    return reinterpret_cast<SampleResult*>(results_.as() + kResultsOffset);
  }
  unsigned long long* device_saturations() const { return results_.as<unsigned long long>(); }

  static constexpr int64_t kResultsOffset = 16;  // of SampleResults behind the count of saturations

  // Constant after Start.
  const ModelShape shape_;
  const OpsOptions options_;
  OpsInfo info_;
  Weights weights_;
  AttentionShape attention_;
  PrefillLimits prefill_limits_;
  int32_t multiprocessors_ = 0;
  bool hopper_code_ = false;  // compiled_code.h
  int32_t max_rows_ = 0;      // of a pass, padding included
  LaunchContext decode_context_, prefill_context_;

  StateSlab slab_;
  cudaStream_t stream_ = nullptr;
  PrefillSide prefill_side_;
  std::unique_ptr<LtGemm> lt_;
  Activations a_;
  DeviceBuffer tables_, results_, prefill_table_, prefill_workspace_;
  DecodeGraphs graphs_;
  FewRowsPassRunner few_rows_;

  absl::Status status_;  // the first device error
  std::array<Step, kStepsInFlight> steps_;
  int64_t begun_ = 0, collected_ = 0;   // steps
  int32_t collected_outputs_ = 0;       // of the step collected last
  unsigned long long saturations_ = 0;  // counted on the device by then
  Step* step_ = nullptr;                // the one being launched
  Pass pass_ = Pass::kNone;
  bool capturing_ = false;
};

}  // namespace sessa::cuda
