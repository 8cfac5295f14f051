// The one symbol of libsessa_cuda.so. Program and plugin are built together, by one compiler.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace sessa {

// Creates the backend into *ops; as CreateOpsFn otherwise.
using CreateCudaOpsEntry = void (*)(const ModelShape& shape, const ModelTensors& tensors,
                                    const OpsOptions& options, absl::StatusOr<std::unique_ptr<Ops>>* ops);

// Renamed whenever kernels/ops.h changes in a way that an older plugin would not understand.
inline constexpr char kCreateCudaOpsSymbol[] = "SessaCreateCudaOps1";

}  // namespace sessa
