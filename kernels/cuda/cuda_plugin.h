// Opens the CUDA backend, which is a plugin so that one program runs with and without CUDA (and because
// cuBLAS, linked into a program, takes so much thread-local storage that threads with small stacks fail).
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace sessa {

// Loads libsessa_cuda.so from beside the program, or from where the dynamic linker looks, and creates the
// backend on card options.device. UNAVAILABLE when the plugin, its libraries, the driver or a card is
// missing: the message names which, and a caller may fall back to the CPU. Other errors are CreateCudaOps's
// (cuda_ops.h). The plugin stays loaded.
absl::StatusOr<std::unique_ptr<Ops>> LoadCudaOps(const ModelShape& shape, const ModelTensors& tensors,
                                                 const OpsOptions& options);

}  // namespace sessa
