// Products of many rows through cuBLASLt: y = X W^T (+ y) (+ bias), bf16 operands, float32 accumulation and
// result.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <tuple>

#include "absl/status/statusor.h"
#include "kernels/cuda/device_memory.h"

namespace sessa::cuda {

// One thread at a time.
class LtGemm {
 public:
  static absl::StatusOr<std::unique_ptr<LtGemm>> Create();
  ~LtGemm();
  LtGemm(const LtGemm&) = delete;
  LtGemm& operator=(const LtGemm&) = delete;

  struct Operands {
    const void* weight = nullptr;  // (outputs, inputs) bf16
    const void* x = nullptr;       // (rows, inputs) bf16
    const float* bias = nullptr;   // (outputs), or null
    float* y = nullptr;            // (rows, pitch)
    int32_t rows = 0, outputs = 0, inputs = 0, pitch = 0;
    bool accumulate = false;  // add to y
  };
  // Pointers and row pitches are multiples of 16 bytes. The algorithm is what cuBLASLt's heuristics put first
  // for the sizes, remembered.
  absl::Status Run(const Operands& operands, cudaStream_t stream);

 private:
  struct Plan;
  using Key = std::tuple<int32_t, int32_t, int32_t, int32_t, bool, bool>;

  LtGemm() = default;
  absl::StatusOr<Plan*> PlanFor(const Operands& operands);

  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace sessa::cuda
