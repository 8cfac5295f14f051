// The backend around the layer phases (those are in cuda_passes.cc): start, state memory, the life of a step.
#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/compiled_code.h"

namespace sessa::cuda {
namespace {

constexpr int32_t kMaxWidth = 12288;     // D: a row in float32 fits shared memory
constexpr int32_t kMinOutputRows = 256;  // of a Head slice
constexpr int64_t kFirstTableBytes = int64_t{2} << 20;
constexpr int kOldestMajor = 8;  // compute capability that the embedded PTX needs

std::string VersionText(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

absl::Status Unavailable(cudaError_t error, const char* what) {
  return absl::UnavailableError(absl::StrCat("CUDA backend: ", what, ": ", cudaGetErrorString(error)));
}

// The card that options.device names, or why it cannot be used.
absl::StatusOr<cudaDeviceProp> FindDevice(int32_t ordinal) {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return absl::UnavailableError("CUDA backend: there is no NVIDIA driver");
  if (driver / 1000 < runtime / 1000) {
    return absl::UnavailableError(absl::StrCat("CUDA backend: the driver is too old: it knows CUDA ",
                                               VersionText(driver), ", this program needs ",
                                               VersionText(runtime)));
  }
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return Unavailable(error, "looking for a card");
  if (ordinal < 0 || ordinal >= count) {
    return absl::UnavailableError(
        absl::StrCat("CUDA backend: there is no card ", ordinal, "; there are ", count));
  }
  cudaDeviceProp device;
  error = cudaGetDeviceProperties(&device, ordinal);
  if (error != cudaSuccess) return Unavailable(error, "asking for the card's properties");
  if (device.major < kOldestMajor) {
    return absl::UnavailableError(absl::StrCat("CUDA backend: ", device.name, " has compute capability ",
                                               device.major, ".", device.minor, "; ", kOldestMajor,
                                               ".0 is the least that is supported"));
  }
  return device;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(const ModelShape& shape, const ModelTensors& tensors,
                                                   const OpsOptions& options) {
  if (shape.width > kMaxWidth) {
    return absl::UnimplementedError(
        absl::StrCat("CUDA backend: hidden_size ", shape.width, " is more than ", kMaxWidth));
  }
  auto ops = std::make_unique<CudaOps>(shape, options);
  absl::Status status = ops->Start(tensors);
  if (!status.ok()) return status;
  return ops;
}

CudaOps::CudaOps(const ModelShape& shape, const OpsOptions& options)
    : shape_(shape), options_(options), slab_(StateLayout{shape, options.state_dtype}) {}

CudaOps::~CudaOps() {
  if (stream_ == nullptr) return;
  cudaStreamSynchronize(stream_);  // a poisoned device says so here; there is nobody left to tell
  for (Step& step : steps_) {
    if (step.begin != nullptr) cudaEventDestroy(step.begin);
    if (step.end != nullptr) cudaEventDestroy(step.end);
  }
  for (cudaEvent_t event : {prefill_side_.begin, prefill_side_.end}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (prefill_side_.stream != nullptr) cudaStreamDestroy(prefill_side_.stream);
  graphs_.Clear();
  cudaStreamDestroy(stream_);
}

absl::Status CudaOps::Start(const ModelTensors& tensors) {
  absl::StatusOr<cudaDeviceProp> device = FindDevice(options_.device);
  if (!device.ok()) return device.status();
  cudaError_t error = cudaSetDevice(options_.device);
  if (error != cudaSuccess) return Unavailable(error, "taking the card");
  multiprocessors_ = device->multiProcessorCount;
  attention_ = PlanAttention(shape_.width, shape_.heads, shape_.kv_heads,
                             options_.state_dtype == StateDtype::kF32, device->sharedMemPerBlockOptin);
  error = RunsHopperCode(&hopper_code_);
  if (error != cudaSuccess) return Unavailable(error, "loading the kernels");
  absl::Status status = StartDevice();
  if (!status.ok()) return status;
  absl::StatusOr<Weights> weights = Weights::Load(shape_, tensors);
  if (!weights.ok()) return weights.status();
  weights_ = std::move(*weights);
  absl::StatusOr<std::unique_ptr<LtGemm>> lt = LtGemm::Create();
  if (!lt.ok()) return lt.status();
  lt_ = std::move(*lt);
  prefill_limits_.shape = shape_;
  prefill_limits_.state = options_.state_dtype;
  prefill_limits_.max_rows = options_.max_rows;
  prefill_limits_.max_segments = options_.max_segments;
  prefill_limits_.tensor_cores = hopper_code_;
  prefill_limits_.multiprocessors = multiprocessors_;
  decode_context_ = {stream_, hopper_code_};
  prefill_context_ = {stream_, hopper_code_};
  status = StartBuffers();
  if (!status.ok()) return status;
  status = few_rows_.Start(shape_, attention_, weights_, multiprocessors_);
  if (!status.ok()) return status;
  return Describe(*device);
}

absl::Status CudaOps::StartDevice() {
  absl::Status status = ToStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a CUDA stream");
  for (Step& step : steps_) {
    if (status.ok()) status = ToStatus(cudaEventCreate(&step.begin), "a CUDA event");
    if (status.ok()) status = ToStatus(cudaEventCreate(&step.end), "a CUDA event");
  }
  PrefillSide& side = prefill_side_;
  if (status.ok()) {
    status = ToStatus(cudaStreamCreateWithFlags(&side.stream, cudaStreamNonBlocking), "a CUDA stream");
  }
  for (cudaEvent_t* event : {&side.begin, &side.end}) {
    if (status.ok()) {
      status = ToStatus(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "a CUDA event");
    }
  }
  return status;
}

absl::Status CudaOps::StartBuffers() {
  const int32_t segments = BucketOf(options_.max_segments);
  max_rows_ = (std::max(options_.max_rows, segments) + 63) / 64 * 64;
  info_.max_output_rows = std::max(kMinOutputRows, segments);
  Activations::Sizes sizes;
  sizes.shape = shape_;
  sizes.rows = max_rows_;
  sizes.pitch = weights_.pitch();
  sizes.output_rows = info_.max_output_rows;
  sizes.project_outputs =
      std::max(weights_.layer(0).project.padded_outputs, weights_.layer(0).in.padded_outputs);
  sizes.slots = options_.max_segments;
  if (attention_.fast) {
    // Of whole runs; or, of a batch of few units, the leaves.
    const int64_t units = std::max<int64_t>(int64_t{segments} * kMaxUnits,
                                            multiprocessors_ + int64_t{segments} * kRunUnits * kMaxLeaves);
    sizes.partials = units * (1 + attention_.forward_chunks);
    sizes.partial_floats = attention_.partial_floats;
  }
  absl::Status status = a_.Allocate(sizes);
  if (status.ok()) status = ReserveDevice(tables_, kFirstTableBytes, "step tables");
  if (status.ok()) {
    const int64_t outputs = max_rows_ + 2 * int64_t{info_.max_output_rows};
    status = ReserveDevice(results_, kResultsOffset + outputs * static_cast<int64_t>(sizeof(SampleResult)),
                           "results");
  }
  if (status.ok()) {
    status =
        ReserveDevice(prefill_workspace_, PrefillWorkspaceBytes(prefill_limits_), "the prefill workspace");
  }
  if (status.ok()) {
    status = ReserveDevice(prefill_table_, PrefillTableBytes(prefill_limits_), "the prefill table");
  }
  for (Step& step : steps_) {
    if (status.ok()) status = ReservePinned(step.tables, kFirstTableBytes, "step tables");
    if (status.ok())
      status = ReservePinned(step.prefill_table, PrefillTableBytes(prefill_limits_), "prefill tables");
    if (status.ok()) status = ReservePinned(step.results, results_.bytes(), "results");
  }
  return status;
}

absl::Status CudaOps::Describe(const cudaDeviceProp& device) {
  info_.name = "cuda";
  info_.steps_in_flight = kStepsInFlight;
  info_.weight_bytes = weights_.bytes();
  info_.description = absl::StrCat(
      "cuda: ", device.name, " (sm_", device.major, device.minor, ", ", device.multiProcessorCount,
      " multiprocessors), ", hopper_code_ ? "code for sm_90a" : "code from PTX for sm_80",
      ", weights in bf16, ", attention_.fast ? "split-KV" : "generic (slow)", " decode attention, ",
      prefill_limits_.tensor_cores ? "tensor-core" : "plain",
      " prefill where the shape allows it; decode is batch-invariant");
  return ToStatus(cudaDeviceSynchronize(), "starting the CUDA backend");
}

void CudaOps::Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess && status_.ok()) status_ = ToStatus(error, what);
}

void CudaOps::Check(const absl::Status& status) {
  if (!status.ok() && status_.ok()) status_ = status;
}

// --- state memory ---

absl::Status CudaOps::AllocateState(int32_t pages, int32_t open_pages) {
  absl::Status status = slab_.Allocate(pages, open_pages, stream_);
  if (status.ok()) status = few_rows_.SetState(weights_, slab_, stream_);
  return status;
}

void CudaOps::CopyPage(PageId from, PageId to) { Check(slab_.CopyPage(from, to, stream_), "copying a page"); }

void CudaOps::CopyOpenPage(PageId from, PageId to) {
  Check(slab_.CopyOpenPage(from, to, stream_), "copying an open page");
}

absl::Status CudaOps::ReadState(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                                float* out) {
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
  Check(cudaStreamSynchronize(stream_), "waiting for the device");
  Check(cudaMemcpy(logits.data(), a_.logits + int64_t{output} * shape_.vocab, logits.size() * sizeof(float),
                   cudaMemcpyDeviceToHost),
        "reading logits");
  if (!status_.ok()) return status_;
  return logits;
}

}  // namespace sessa::cuda
