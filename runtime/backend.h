// Chooses a backend by name and makes it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/ops.h"

namespace sessa {

struct Backend {
  std::unique_ptr<Ops> ops;
  std::string note;  // for the log: why "auto" passed over a backend; empty when there is nothing to say
};

// `name`: "cpu", "cuda", "reference", or "auto": cuda where a usable device is, else cpu. The tensors may be
// unmapped afterwards. INVALID_ARGUMENT for another name; else what the backend's factory says.
absl::StatusOr<Backend> CreateBackend(absl::string_view name, const ModelShape& shape,
                                      const ModelTensors& tensors, const OpsOptions& options);

}  // namespace sessa
