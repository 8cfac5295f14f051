#include "runtime/backend.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda/cuda_plugin.h"
#include "kernels/reference/reference_ops.h"

namespace sessa {
namespace {

constexpr BackendCandidate kCandidates[] = {
    {"cuda", LoadCudaOps, true},
    {"cpu", CreateCpuOps, true},
    {"reference", CreateReferenceOps, false},
};

bool MayBePassedOver(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsUnimplemented(status);
}

}  // namespace

absl::StatusOr<Backend> ChooseBackend(absl::Span<const BackendCandidate> candidates, absl::string_view name,
                                      const ModelShape& shape, const ModelTensors& tensors,
                                      const OpsOptions& options) {
  Backend backend;
  absl::Status status = absl::InvalidArgumentError(
      absl::StrCat("unknown backend \"", name, "\"; there are auto, cpu, cuda and reference"));
  for (const BackendCandidate& candidate : candidates) {
    if (name != candidate.name && !(name == "auto" && candidate.automatic)) continue;
    absl::StatusOr<std::unique_ptr<Ops>> ops = candidate.create(shape, tensors, options);
    if (ops.ok()) {
      backend.ops = *std::move(ops);
      return backend;
    }
    status = ops.status();
    if (!MayBePassedOver(status)) return status;
    absl::StrAppend(&backend.note, backend.note.empty() ? "" : "; ", candidate.name,
                    " is not used: ", status.message());
  }
  return status;
}

absl::StatusOr<Backend> CreateBackend(absl::string_view name, const ModelShape& shape,
                                      const ModelTensors& tensors, const OpsOptions& options) {
  return ChooseBackend(kCandidates, name, shape, tensors, options);
}

}  // namespace sessa
