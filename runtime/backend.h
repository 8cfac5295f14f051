// Chooses a backend by name and makes it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/ops.h"

namespace sessa {

struct Backend {
  std::unique_ptr<Ops> ops;
  std::string note;  // for the log: why "auto" passed over a backend; empty when there is nothing to say
};

// `name`: "cpu", "cuda", "reference", or "auto": cuda where there is a device that can run the model, else
// cpu. The tensors may be unmapped afterwards. INVALID_ARGUMENT for another name; else what the backend's
// factory says. "auto" passes over a backend that is UNAVAILABLE (no driver, no card, no plugin) or
// UNIMPLEMENTED (for such a shape). Any other failure is its own: a card that is full must not become a slow
// server that nobody wanted.
absl::StatusOr<Backend> CreateBackend(absl::string_view name, const ModelShape& shape,
                                      const ModelTensors& tensors, const OpsOptions& options);

struct BackendCandidate {
  absl::string_view name;
  CreateOpsFn create;
  bool automatic;  // "auto" tries it, in this order
};
// CreateBackend's way to choose, from any candidates.
absl::StatusOr<Backend> ChooseBackend(absl::Span<const BackendCandidate> candidates, absl::string_view name,
                                      const ModelShape& shape, const ModelTensors& tensors,
                                      const OpsOptions& options);

}  // namespace sessa
