// The fast backend on a CPU.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/ops.h"

namespace sessa {

// Packs the weights: in bf16 when the checkpoint's matrices are bf16 and the CPU has AVX512-BF16 (products
// then take bf16 activations and add in float32), else in float32; info().description says which and why.
// Starts cpu_threads - 1 threads. A row's logits and state are bitwise independent of the other rows, of how
// the prompt was cut and of the number of threads (not of the CPU). Uses of OpsOptions: max_rows,
// max_segments, state_dtype, cpu_threads. INVALID_ARGUMENT for a number of threads below 1,
// RESOURCE_EXHAUSTED when memory cannot be reserved or so many threads cannot be started.
absl::StatusOr<std::unique_ptr<Ops>> CreateCpuOps(const ModelShape& shape, const ModelTensors& tensors,
                                                  const OpsOptions& options);

// The same with at most the instructions of `set`, which the CPU must have. For tests and comparisons.
absl::StatusOr<std::unique_ptr<Ops>> CreateCpuOpsWith(cpu::InstructionSet set, const ModelShape& shape,
                                                      const ModelTensors& tensors, const OpsOptions& options);

}  // namespace sessa
