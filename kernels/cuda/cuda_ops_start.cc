// The start of the backend: the card, the weights, the buffers.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/compiled_code.h"
#include "kernels/cuda/cuda_ops.h"

namespace sessa::cuda {
namespace {

constexpr int32_t kMaxWidth = 12288;     // D: a row in float32 fits shared memory
constexpr int32_t kMaxRows = 16384;      // of a step: the workspace of prefill grows with their square
constexpr int32_t kMinOutputRows = 256;  // of a Head slice
constexpr int64_t kHostLogitsBytes = int64_t{32} << 20;  // of a step's rows that the host samples, at a time
constexpr int kOldestMajor = 8;                          // compute capability that the embedded PTX needs

std::string VersionText(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

// UNAVAILABLE where there is no card at all: a caller may do without. Else there is one that does not work.
absl::Status StartError(cudaError_t error, const char* what) {
  if (error != cudaErrorNoDevice && error != cudaErrorInsufficientDriver) {
    return ToStatus(error, absl::StrCat("CUDA backend: ", what));
  }
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
  if (error != cudaSuccess) return StartError(error, "looking for a card");
  if (ordinal < 0 || ordinal >= count) {
    return absl::InvalidArgumentError(absl::StrCat("CUDA backend: --device=", ordinal,
                                                   " is not there: this machine has ", count,
                                                   count == 1 ? " card" : " cards", ", counted from 0"));
  }
  cudaDeviceProp device;
  error = cudaGetDeviceProperties(&device, ordinal);
  if (error != cudaSuccess) return StartError(error, "asking for the card's properties");
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
  if (options.max_rows > kMaxRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("CUDA backend: --max_batch_tokens=", options.max_rows, " is more than ", kMaxRows));
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
  cudaSetDevice(options_.device);
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
  if (error != cudaSuccess) return StartError(error, "taking the card");
  multiprocessors_ = device->multiProcessorCount;
  attention_ = PlanAttention(shape_.width, shape_.heads, shape_.kv_heads,
                             options_.state_dtype == StateDtype::kF32, device->sharedMemPerBlockOptin);
  error = RunsHopperCode(&hopper_code_);
  if (error != cudaSuccess) return StartError(error, "loading the kernels");
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
    if (status.ok()) {
      const int64_t room = kHostLogitsBytes / (4 * int64_t{shape_.vocab});
      status = step.host_rows.Allocate(
          shape_.vocab, static_cast<int32_t>(std::clamp<int64_t>(room, 1, info_.max_output_rows)));
    }
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
      PrefillKind(prefill_limits_), " prefill",
      options_.state_dtype == StateDtype::kF32 ? ", both because state is in float32" : "",
      "; decode is batch-invariant");
  return ToStatus(cudaDeviceSynchronize(), "starting the CUDA backend");
}

}  // namespace sessa::cuda
