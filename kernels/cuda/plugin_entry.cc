#include "kernels/cuda/plugin_entry.h"

#include "kernels/cuda/cuda_ops.h"

extern "C" __attribute__((visibility("default"))) void SessaCreateCudaOps1(
    const sessa::ModelShape& shape, const sessa::ModelTensors& tensors, const sessa::OpsOptions& options,
    absl::StatusOr<std::unique_ptr<sessa::Ops>>* ops) {
  *ops = sessa::cuda::CreateCudaOps(shape, tensors, options);
}
