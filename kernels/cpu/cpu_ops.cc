#include "kernels/cpu/cpu_ops.h"

#include <new>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/backend.h"

namespace sessa {
namespace {

using cpu::InstructionSet;
using cpu::Kernels;

cpu::Choice Choose(InstructionSet set, const ModelTensors& tensors, const OpsOptions& options) {
  const bool stored_bf16 = cpu::AllBF16(tensors);
  const Kernels& kernels = cpu::KernelsFor(set, stored_bf16);
  const bool compact = options.state_dtype == StateDtype::kCompact;
  const char* reason = kernels.bf16  ? "bf16 weights with float32 sums: the checkpoint is bf16"
                       : stored_bf16 ? "float32 weights: the CPU has no AVX512-BF16"
                                     : "float32 weights: the checkpoint is not bf16";
  return {&kernels, kernels.bf16 && compact,
          absl::StrCat("cpu: ", kernels.name, ", ", reason, ", ", compact ? "compact" : "float32", " state, ",
                       options.cpu_threads, options.cpu_threads == 1 ? " thread" : " threads")};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CreateCpuOpsWith(InstructionSet set, const ModelShape& shape,
                                                      const ModelTensors& tensors,
                                                      const OpsOptions& options) {
  if (options.cpu_threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("cpu_threads is ", options.cpu_threads, ", must be at least 1"));
  }
  try {
    return std::make_unique<cpu::Backend>(Choose(set, tensors, options), shape, tensors, options);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("cpu backend: not enough memory for weights and activations");
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cpu_threads is ", options.cpu_threads, ": ", error.what()));
  }
}

absl::StatusOr<std::unique_ptr<Ops>> CreateCpuOps(const ModelShape& shape, const ModelTensors& tensors,
                                                  const OpsOptions& options) {
  return CreateCpuOpsWith(cpu::DetectInstructionSet(), shape, tensors, options);
}

}  // namespace sessa
