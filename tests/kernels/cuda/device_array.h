// Device memory of tests that call launchers themselves.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace sessa::cuda {

// Aborts the test program with the place and CUDA's message.
inline void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::abort();
}

// Whether there is no driver or no card; any other reason not to run is a failure.
inline bool NoCard() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) return true;
  CheckCuda(error, "looking for a card");
  return devices == 0;
}

// An array that is freed with its owner. Its bytes are `poison` at first: 0xff is NaN in every type of
// number.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t count = 0, int poison = 0xff) : count_(count) {
    if (count == 0) return;
    void* data = nullptr;
    CheckCuda(cudaMalloc(&data, count * sizeof(T)), "cudaMalloc");
    data_.reset(static_cast<T*>(data));
    Fill(poison);
  }
  T* get() const { return data_.get(); }
  int64_t size() const { return count_; }
  void Fill(int byte) { CheckCuda(cudaMemset(get(), byte, count_ * sizeof(T)), "cudaMemset"); }
  std::vector<T> ToHost() const {
    std::vector<T> host(count_);
    if (count_ > 0) {
      CheckCuda(cudaMemcpy(host.data(), get(), count_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    }
    return host;
  }
  void FromHost(const std::vector<T>& host) {
    CheckCuda(cudaMemcpy(get(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }

 private:
  struct Free {
    void operator()(T* data) const { cudaFree(data); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t count_;
};

}  // namespace sessa::cuda
