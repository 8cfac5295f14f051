#include "runtime/backend.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda/cuda_plugin.h"
#include "kernels/reference/reference_ops.h"

namespace sessa {
namespace {

struct Candidate {
  absl::string_view name;
  CreateOpsFn create;
  bool automatic;  // "auto" tries it, in this order
};

constexpr Candidate kCandidates[] = {
    {"cuda", LoadCudaOps, true},
    {"cpu", CreateCpuOps, true},
    {"reference", CreateReferenceOps, false},
};

}  // namespace

absl::StatusOr<Backend> CreateBackend(absl::string_view name, const ModelShape& shape,
                                      const ModelTensors& tensors, const OpsOptions& options) {
  Backend backend;
  absl::Status status = absl::InvalidArgumentError(
      absl::StrCat("unknown backend \"", name, "\"; there are auto, cpu, cuda and reference"));
  for (const Candidate& candidate : kCandidates) {
    if (name != candidate.name && !(name == "auto" && candidate.automatic)) continue;
    absl::StatusOr<std::unique_ptr<Ops>> ops = candidate.create(shape, tensors, options);
    if (ops.ok()) {
      backend.ops = *std::move(ops);
      return backend;
    }
    status = ops.status();
    absl::StrAppend(&backend.note, backend.note.empty() ? "" : "; ", candidate.name,
                    " is not used: ", status.message());
  }
  return status;
}

}  // namespace sessa
