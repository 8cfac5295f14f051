// Device and pinned host memory with owners, and CUDA errors as statuses.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sessa::cuda {

// OK, or INTERNAL "<what>: <CUDA's name and text>".
absl::Status ToStatus(cudaError_t error, absl::string_view what);

// Owns one allocation. Movable.
template <cudaError_t (*Free)(void*)>
class Allocation {
 public:
  Allocation() = default;
  Allocation(void* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  Allocation(Allocation&& other) noexcept { *this = std::move(other); }
  Allocation& operator=(Allocation&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Allocation() {
    if (data_ != nullptr) Free(data_);
  }

  template <typename T = char>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

using DeviceBuffer = Allocation<cudaFree>;
using PinnedBuffer = Allocation<cudaFreeHost>;

// Zeroed device memory. RESOURCE_EXHAUSTED says what for, how much was asked and how much is free.
absl::StatusOr<DeviceBuffer> AllocateDevice(int64_t bytes, absl::string_view what);
// Zeroed only on request: a slab of state is not touched.
absl::StatusOr<DeviceBuffer> AllocateDeviceUntouched(int64_t bytes, absl::string_view what);
// Page-locked host memory, which asynchronous copies need.
absl::StatusOr<PinnedBuffer> AllocatePinned(int64_t bytes, absl::string_view what);

}  // namespace sessa::cuda
