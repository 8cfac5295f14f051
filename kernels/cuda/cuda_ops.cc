// The backend between its start (cuda_ops_start.cc) and the layer phases (cuda_passes.cc): state memory and
// the life of a step.
#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention_schedule.h"

namespace sessa::cuda {

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
  absl::Status status = slab_.Allocate(pages, open_pages, stream_);
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

void CudaOps::Reserve(Step& step) {
  const StepBatch& batch = *step.batch;
  const int64_t table_bytes = TableBytes(batch, options_.max_segments);
  if (table_bytes > tables_.bytes()) Check(ReserveDevice(tables_, 2 * table_bytes, "step tables"));
  Check(ReservePinned(step.tables, table_bytes, "step tables"));
  const int64_t outputs = static_cast<int64_t>(batch.outputs.size()) + info_.max_output_rows;
  const int64_t result_bytes = kResultsOffset + outputs * static_cast<int64_t>(sizeof(SampleResult));
  if (result_bytes > results_.bytes()) {
    unsigned long long saturations = 0;
    Check(cudaStreamSynchronize(stream_), "waiting for the device");
    Check(cudaMemcpy(&saturations, device_saturations(), sizeof saturations, cudaMemcpyDeviceToHost),
          "keeping counters");
    Check(ReserveDevice(results_, 2 * result_bytes, "results"));
    Check(cudaMemcpy(device_saturations(), &saturations, sizeof saturations, cudaMemcpyHostToDevice),
          "keeping counters");
  }
  Check(ReservePinned(step.results, result_bytes, "results"));
  step.host_rows.clear();
  step.copied_host_rows = 0;
  for (size_t i = 0; i < batch.outputs.size(); ++i) {
    const OutputRow& output = batch.outputs[i];
    const bool device = output.target >= 0 ? output.params == nullptr || output.params->top_logprobs < 0
                                           : output.params->IsPlain();
    if (!device) step.host_rows.push_back(static_cast<int32_t>(i));
  }
  const int64_t row_bytes = int64_t{shape_.vocab} * 4;
  Check(ReservePinned(step.host_logits, static_cast<int64_t>(step.host_rows.size()) * row_bytes, "logits"));
}

void CudaOps::BeginStep(const StepBatch& batch) {
  step_ = &steps_[begun_++ % kStepsInFlight];
  Step& step = *step_;
  step.batch = &batch;
  pass_ = Pass::kNone;
  TakeDevice();
  if (status_.ok()) Reserve(step);
  if (!status_.ok()) return;
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
  if (!plan.graph || few_rows()) return;  // two kernels are launched sooner than a graph
  switch (graphs_.Next(graph_pass())) {
    case DecodeGraphs::Action::kRunEagerly:
      return;
    case DecodeGraphs::Action::kCapture:
      Check(graphs_.BeginCapture(stream_), "capturing a decode graph");
      capturing_ = true;
      return;
    case DecodeGraphs::Action::kReplay:
      Check(graphs_.Launch(graph_pass(), stream_), "launching a decode graph");
      CopyHostRows(0, plan.decode_outputs);
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
  CopyHostRows(0, plan.decode_outputs);
}

// The logits of those of outputs [first, first + count) that the host samples. The host rows ascend.
void CudaOps::CopyHostRows(int32_t first, int32_t count) {
  Step& step = *step_;
  const int64_t vocab = shape_.vocab;
  while (step.copied_host_rows < static_cast<int32_t>(step.host_rows.size())) {
    const int32_t output = step.host_rows[step.copied_host_rows];
    if (output >= first + count) return;
    Check(cudaMemcpyAsync(step.host_logits.as<float>() + step.copied_host_rows * vocab,
                          a_.logits + (LogitsRow(first) + output - first) * vocab, vocab * sizeof(float),
                          cudaMemcpyDeviceToHost, stream_),
          "copying logits");
    ++step.copied_host_rows;
  }
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
  for (size_t i = 0; i < step.host_rows.size(); ++i) {
    const OutputRow& output = step.batch->outputs[step.host_rows[i]];
    OutputResult& out = result.outputs[step.host_rows[i]];
    out = SampleRow(absl::MakeConstSpan(step.host_logits.as<float>() + i * shape_.vocab, shape_.vocab),
                    output, sample_scratch_);
    if (output.slot < 0) continue;
    Check(cudaMemcpyAsync(a_.slots + output.slot, &out.token, sizeof out.token, cudaMemcpyHostToDevice,
                          stream_),
          "setting a token slot");
  }
  if (!status_.ok()) return status_;
  return result;
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
