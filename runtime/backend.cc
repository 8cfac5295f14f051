#include "runtime/backend.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/reference/reference_ops.h"

namespace sessa {
namespace {

struct Candidate {
  absl::string_view name;
  CreateOpsFn create;
};

// By preference of "auto".
constexpr Candidate kCandidates[] = {
    {"reference", CreateReferenceOps},
};

}  // namespace

absl::StatusOr<Backend> CreateBackend(absl::string_view name, const ModelShape& shape,
                                      const ModelTensors& tensors, const OpsOptions& options) {
  std::string note;
  absl::Status status = absl::InvalidArgumentError(
      absl::StrCat("unknown backend \"", name, "\"; there are auto, cpu, cuda and reference"));
  for (const Candidate& candidate : kCandidates) {
    if (name != candidate.name && name != "auto") continue;
    absl::StatusOr<std::unique_ptr<Ops>> ops = candidate.create(shape, tensors, options);
    if (ops.ok()) return Backend{*std::move(ops), note};
    status = ops.status();
    absl::StrAppend(&note, note.empty() ? "" : "; ", candidate.name, " is not used: ", status.message());
  }
  return status;
}

}  // namespace sessa
