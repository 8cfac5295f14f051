// Runs a golden case through a backend along every path and compares all that comes out.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "tools/compare.h"
#include "tools/golden_case.h"

namespace sessa {

struct CheckOptions {
  std::string backend = "reference";  // cpu, cuda or reference; for auto see ResolveBackend
  OpsOptions ops;
  bool round_weights = false;  // to bf16, for the backend and for what it is compared with
};

// Which backend `name` is on this machine: tolerances depend on it. As CreateBackend where it cannot be made.
absl::StatusOr<std::string> ResolveBackend(const std::string& name, const OpsOptions& ops);

// Logits, then the planes k, v, kb, s (each the worst of its layers).
inline constexpr const char* kTensorNames[] = {"logits", "k", "v", "kb", "s"};
using TensorErrors = std::array<RelativeError, 5>;

struct PathReport {
  std::string
      path;  // "whole", "chunk64", "chunk7", "chunk1", "decode" (whole first half, then single tokens)
  TensorErrors errors;
};

struct CaseReport {
  std::string name;
  StateDtype state = StateDtype::kF32;
  std::vector<PathReport> paths;
  // Greedy tokens that agree, of those compared. Exact comparison (float32 weights and state): the
  // free-running continuation up to the first margin below 1e-3. Otherwise: teacher-forced, at the positions
  // whose margin exceeds twice the error allowed (`qualifying`, a share of all positions).
  int32_t greedy_equal = 0, greedy_compared = 0;
  double qualifying = 1;
  std::vector<std::string> failures;  // empty: passed
};

// The tolerance for a case. Exact comparisons are with the golden vectors; others with the reference backend
// on the same weights: rounding of bf16 and fp16 may move logits and state by 1 % (2 % for the CUDA backend
// on a chain of strong feedback). The reference's state is in float32, so that what compact state costs is
// seen too.
bool IsExact(const CheckOptions& options);
Tolerance ToleranceFor(const GoldenCase& golden, const CheckOptions& options);

// INVALID_ARGUMENT for the backend "auto".
absl::StatusOr<CaseReport> CheckCase(const GoldenCase& golden, const CheckOptions& options);

struct RecallReport {
  int32_t prompts = 0, equal = 0;
  std::vector<std::string> misses;  // a line for each prompt answered otherwise
};
// Free-running greedy answers of the model in `model_dir`.
absl::StatusOr<RecallReport> CheckRecallPrompts(absl::Span<const RecallPrompt> prompts,
                                                const std::string& model_dir, const CheckOptions& options);

const char* Name(StateDtype state);  // "f32" or "compact"

// One line: name, state, "ok" or "FAILED", errors of every path as tensor/row, greedy, failures.
std::string FormatReport(const CaseReport& report);

// Errors of `actual` against `expected`.
TensorErrors CompareSequences(const ModelShape& shape, const SequenceResult& actual,
                              const SequenceResult& expected);

}  // namespace sessa
