// Linear layers of the prefill rows on Hopper's tensor cores: y = X W^T, bf16 operands, float32 sums, and
// what becomes of y (the epilogues of kernels.h) done before it leaves the multiprocessor.
#pragma once

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/prefill.h"

namespace sessa::cuda {

// True where these launchers take a model's shape, state type and card.
bool FastLinearShape(const PrefillLimits& limits);

struct PrefillLinear {
  const void* weight = nullptr;  // (outputs, inputs) bf16
  const void* x = nullptr;       // (rows, inputs) bf16
  int32_t outputs = 0, inputs = 0, rows = 0;
  int32_t multiprocessors = 0;  // to share the work
};

// Programmatic dependents of the kernel before them on the stream; weights are fetched before it has ended.
cudaError_t LaunchPrefillLinear(const PrefillLinear& linear, const InEpilogueParams& output,
                                cudaStream_t stream);
cudaError_t LaunchPrefillLinear(const PrefillLinear& linear, const ProjectEpilogueParams& output,
                                cudaStream_t stream);
cudaError_t LaunchPrefillLinear(const PrefillLinear& linear, const ResidualEpilogueParams& output,
                                cudaStream_t stream);
cudaError_t LaunchPrefillLinear(const PrefillLinear& linear, const StoreEpilogueParams& output,
                                cudaStream_t stream);

}  // namespace sessa::cuda
