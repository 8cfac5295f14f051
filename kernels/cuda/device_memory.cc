#include "kernels/cuda/device_memory.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace sessa::cuda {

absl::Status ToStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(what, ": ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")"));
}

absl::StatusOr<DeviceBuffer> AllocateDeviceUntouched(int64_t bytes, absl::string_view what) {
  void* data = nullptr;
  bytes = std::max<int64_t>(bytes, 16);
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaSuccess) return DeviceBuffer(data, bytes);
  if (error != cudaErrorMemoryAllocation) return ToStatus(error, absl::StrCat("allocating ", what));
  cudaGetLastError();  // running out of memory does not outlive its report
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return absl::ResourceExhaustedError(
      absl::StrCat("GPU memory for ", what, ": asked for ", bytes, " bytes, free are ", free, " of ", total));
}

absl::StatusOr<DeviceBuffer> AllocateDevice(int64_t bytes, absl::string_view what) {
  absl::StatusOr<DeviceBuffer> buffer = AllocateDeviceUntouched(bytes, what);
  if (!buffer.ok()) return buffer;
  // The legacy stream clears it, for which the backend's streams do not wait.
  cudaError_t error = cudaMemset(buffer->as(), 0, buffer->bytes());
  if (error == cudaSuccess) error = cudaStreamSynchronize(cudaStreamLegacy);
  if (error != cudaSuccess) return ToStatus(error, absl::StrCat("clearing ", what));
  return buffer;
}

absl::StatusOr<PinnedBuffer> AllocatePinned(int64_t bytes, absl::string_view what) {
  void* data = nullptr;
  bytes = std::max<int64_t>(bytes, 16);
  const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
  if (error == cudaSuccess) return PinnedBuffer(data, bytes);
  cudaGetLastError();
  return absl::ResourceExhaustedError(absl::StrCat("page-locked host memory for ", what, ": asked for ",
                                                   bytes, " bytes: ", cudaGetErrorString(error)));
}

}  // namespace sessa::cuda
