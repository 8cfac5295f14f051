// The oracle: docs/sessa-model.md in plain float32 loops on one thread. Any valid shape; made to be read, and
// to be compared with.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace sessa {

// Converts the weights to float32. Uses of OpsOptions: max_rows, max_segments, state_dtype.
absl::StatusOr<std::unique_ptr<Ops>> CreateReferenceOps(const ModelShape& shape, const ModelTensors& tensors,
                                                        const OpsOptions& options);

}  // namespace sessa
