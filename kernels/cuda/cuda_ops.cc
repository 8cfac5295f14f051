// The backend between its start (cuda_ops_start.cc) and the layer phases (cuda_passes.cc): state memory and
// the life of a step.
#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention_schedule.h"

namespace sessa::cuda {
namespace {

constexpr int64_t kManyTokens = int64_t{1} << 20;

}  // namespace

void CudaOps::Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess && status_.ok()) status_ = ToStatus(error, what);
}

void CudaOps::Check(const absl::Status& status) {
  if (!status.ok() && status_.ok()) status_ = status;
}

void CudaOps::TakeDevice() { Check(cudaSetDevice(options_.device), "taking the card"); }

// --- state memory ---

int64_t CudaOps::AvailableStateBytes() const {
  return cudaSetDevice(options_.device) == cudaSuccess ? StateSlab::AvailableBytes() : 0;
}

absl::Status CudaOps::AllocateState(int32_t pages, int32_t open_pages) {
  TakeDevice();
  if (!status_.ok()) return status_;
  // So that no step allocates: every session of a step may have all pages, up to a million tokens' worth.
  // Beyond, tables grow.
  const int64_t entries = options_.max_segments * std::min<int64_t>(pages, kManyTokens / kPageTokens);
  absl::Status status = ReserveTables(TableBytes(options_.max_segments, max_rows_, max_rows_, entries));
  if (status.ok()) status = slab_.Allocate(pages, open_pages, stream_);
  if (status.ok()) status = few_rows_.SetState(weights_, slab_, stream_);
  return status;
}

void CudaOps::CopyPage(PageId from, PageId to) {
  TakeDevice();
  Check(slab_.CopyPage(from, to, stream_), "copying a page");
}

void CudaOps::CopyOpenPage(PageId from, PageId to) {
  TakeDevice();
  Check(slab_.CopyOpenPage(from, to, stream_), "copying an open page");
}

absl::Status CudaOps::ReadState(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                                float* out) {
  TakeDevice();
  Check(cudaStreamSynchronize(stream_), "waiting for the device");
  if (!status_.ok()) return status_;
  return slab_.Read(page, layer, plane, first_row, rows, out);
}

// --- the life of a step ---

absl::Status CudaOps::ReserveDevice(DeviceBuffer& buffer, int64_t bytes, const char* what) {
  if (buffer.bytes() >= bytes) return absl::OkStatus();
  absl::Status status = ToStatus(cudaStreamSynchronize(stream_), "waiting for the device");
  if (!status.ok()) return status;
  graphs_.Clear();
  buffer = DeviceBuffer();
  absl::StatusOr<DeviceBuffer> larger = AllocateDevice(bytes, what);
  if (!larger.ok()) return larger.status();
  buffer = std::move(*larger);
  return absl::OkStatus();
}

absl::Status CudaOps::ReservePinned(PinnedBuffer& buffer, int64_t bytes, const char* what) {
  if (buffer.bytes() >= bytes) return absl::OkStatus();
  absl::StatusOr<PinnedBuffer> larger = AllocatePinned(bytes, what);
  if (!larger.ok()) return larger.status();
  buffer = std::move(*larger);
  return absl::OkStatus();
}

absl::Status CudaOps::ReserveTables(int64_t bytes) {
  if (tables_.bytes() >= bytes) return absl::OkStatus();
  absl::Status status = ReserveDevice(tables_, bytes, "step tables");  // waits for the steps in flight
  for (Step& step : steps_) {
    if (status.ok()) status = ReservePinned(step.tables, bytes, "step tables");
  }
  return status;
}

void CudaOps::BeginStep(const StepBatch& batch) {
  step_ = &steps_[begun_++ % kStepsInFlight];
  Step& step = *step_;
  step.batch = &batch;
  pass_ = Pass::kNone;
  TakeDevice();
  assert(batch.rows() <= max_rows_ && batch.outputs.size() <= batch.tokens.size());
  const int64_t table_bytes =
      TableBytes(options_.max_segments, batch.rows(), batch.outputs.size(), batch.pages.size());
  if (status_.ok() && table_bytes > tables_.bytes()) Check(ReserveTables(2 * table_bytes));
  if (!status_.ok()) return;
  step.host_rows.Begin(batch);
  step.plan = BuildTables(batch, options_.max_segments, slab_.scratch_page(), slab_.scratch_open_page(),
                          multiprocessors_, step.tables.as());
  Check(few_rows_.NextEpoch(stream_, &step.tables.as<DecodeHeader>()->epoch), "clearing mailboxes");
  step.few_rows_only = step.plan.prefill_rows == 0 && few_rows_.Takes(step.plan);
  step.results_copied = false;
  Check(cudaEventRecord(step.begin, stream_), "recording an event");
  if (step.few_rows_only) return;
  Check(cudaMemcpyAsync(tables_.as(), step.tables.as(), step.plan.layout.bytes, cudaMemcpyHostToDevice,
                        stream_),
        "copying step tables");
  if (step.plan.prefill_rows > 0) PlanPrefillRows(step);
}

void CudaOps::PlanPrefillRows(Step& step) {
  std::vector<PrefillSegment> segments;
  for (const Segment& segment : step.batch->segments) {
    if (segment.first_row < step.plan.decode_rows) continue;
    segments.push_back({segment.first_row - step.plan.decode_rows, segment.rows,
                        static_cast<int32_t>(segment.start), segment.page_begin, segment.open_page});
  }
  step.prefill = PlanPrefill(prefill_limits_, segments.data(), static_cast<int32_t>(segments.size()),
                             step.prefill_table.as());
  Check(cudaMemcpyAsync(prefill_table_.as(), step.prefill_table.as(), step.prefill.table_bytes,
                        cudaMemcpyHostToDevice, stream_),
        "copying the prefill table");
}

bool CudaOps::NextPass() {
  if (!status_.ok()) {
    pass_ = Pass::kDone;
    return false;
  }
  if (pass_ == Pass::kNone && step_->plan.decode_rows > 0) {
    pass_ = Pass::kDecode;
    StartDecode();
    if (pass_ == Pass::kDecode) return true;  // else it was replayed
  } else if (pass_ == Pass::kDecode) {
    FinishDecode();
  }
  if (pass_ != Pass::kPrefill && pass_ != Pass::kDone && step_->plan.prefill_rows > 0) {
    pass_ = Pass::kPrefill;
    return true;
  }
  pass_ = Pass::kDone;
  return false;
}

// Either replays the pass (and leaves pass_ at kNone), or readies the phases to be run or recorded.
void CudaOps::StartDecode() {
  const StepPlan& plan = step_->plan;
  if (few_rows()) return;  // two kernels are launched sooner than a graph
  switch (graphs_.Next(graph_pass())) {
    case DecodeGraphs::Action::kRunEagerly:
      return;
    case DecodeGraphs::Action::kCapture:
      Check(graphs_.BeginCapture(stream_), "capturing a decode graph");
      capturing_ = true;
      return;
    case DecodeGraphs::Action::kReplay:
      Check(graphs_.Launch(graph_pass(), stream_), "launching a decode graph");
      TakeHostRows(0, plan.decode_outputs);
      pass_ = Pass::kNone;
      return;
  }
}

void CudaOps::FinishDecode() {
  if (!capturing_) return;
  capturing_ = false;
  const StepPlan& plan = step_->plan;
  const cudaError_t error = graphs_.EndCapture(graph_pass(), stream_);
  Check(error, "capturing a decode graph");
  if (error != cudaSuccess) return;
  Check(graphs_.Launch(graph_pass(), stream_), "launching a decode graph");
  TakeHostRows(0, plan.decode_outputs);
}

void CudaOps::TakeHostRows(int32_t first, int32_t count) {
  const float* const logits = a_.logits + int64_t{LogitsRow(first)} * shape_.vocab;
  Check(step_->host_rows.Take(first, count, logits, stream_), "copying logits");
}

void CudaOps::EndStep() {
  if (!status_.ok()) return;
  const int64_t bytes =
      kResultsOffset + static_cast<int64_t>(step_->batch->outputs.size() * sizeof(SampleResult));
  if (!step_->results_copied)
    Check(cudaMemcpyAsync(step_->results.as(), results_.as(), bytes, cudaMemcpyDeviceToHost, stream_),
          "copying results");
  Check(cudaEventRecord(step_->end, stream_), "recording an event");
}

absl::StatusOr<StepResult> CudaOps::Collect() {
  Step& step = steps_[collected_++ % kStepsInFlight];
  TakeDevice();
  if (status_.ok()) Check(cudaEventSynchronize(step.end), "running a step");
  if (!status_.ok()) return status_;
  StepResult result;
  float milliseconds = 0.0f;
  Check(cudaEventElapsedTime(&milliseconds, step.begin, step.end), "timing a step");
  result.device_seconds = milliseconds * 1e-3;
  const unsigned long long saturations = *step.results.as<unsigned long long>();
  result.state_saturations = saturations - saturations_;
  saturations_ = saturations;
  const auto* drawn = reinterpret_cast<const SampleResult*>(step.results.as() + kResultsOffset);
  result.outputs.resize(step.batch->outputs.size());
  collected_outputs_ = static_cast<int32_t>(result.outputs.size());
  for (size_t i = 0; i < result.outputs.size(); ++i) {
    result.outputs[i].token = drawn[i].token;
    result.outputs[i].logprob = drawn[i].logprob;
    result.outputs[i].finite = drawn[i].finite != 0;
  }
  SampleHostRows(step, &result);
  if (!status_.ok()) return status_;
  return result;
}

void CudaOps::SampleHostRows(Step& step, StepResult* result) {
  const auto started = std::chrono::steady_clock::now();
  step.host_rows.Sample();
  for (size_t i = 0; i < step.host_rows.outputs().size(); ++i) {
    const int32_t output = step.host_rows.outputs()[i];
    OutputResult& out = result->outputs[output] = step.host_rows.results()[i];
    const int32_t slot = step.batch->outputs[output].slot;
    if (slot < 0) continue;
    Check(cudaMemcpyAsync(a_.slots + slot, &out.token, sizeof out.token, cudaMemcpyHostToDevice, stream_),
          "setting a token slot");
  }
  result->host_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

absl::StatusOr<std::vector<float>> CudaOps::ReadLogits(int32_t output) {
  if (begun_ != collected_)
    return absl::FailedPreconditionError("a later step has begun and overwrites the logits");
  if (output < 0 || output >= collected_outputs_ || collected_outputs_ > info_.max_output_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("no logits of output ", output, " of ", collected_outputs_));
  }
  std::vector<float> logits(shape_.vocab);
  TakeDevice();
  Check(cudaStreamSynchronize(stream_), "waiting for the device");
  Check(cudaMemcpy(logits.data(), a_.logits + int64_t{output} * shape_.vocab, logits.size() * sizeof(float),
                   cudaMemcpyDeviceToHost),
        "reading logits");
  if (!status_.ok()) return status_;
  return logits;
}

}  // namespace sessa::cuda
