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
  std::string backend = "reference";
  OpsOptions ops;
  bool round_weights = false;  // to bf16, for the backend and for what it is compared with
};

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
  std::vector<PathReport> paths;
  // Greedy tokens that agree, of those compared. Exact comparison (float32 weights and state): the
  // free-running continuation up to the first margin below 1e-3. Otherwise: teacher-forced, at the positions
  // whose margin exceeds twice the error allowed (`qualifying`, a share of all positions).
  int32_t greedy_equal = 0, greedy_compared = 0;
  double qualifying = 1;
  std::vector<std::string> failures;  // empty: passed
};

// The tolerance for a case. Exact comparisons are with the golden vectors; others with the reference backend
// in float32 state on the same weights: rounding of bf16 and fp16 may move logits and state by 1 % (2 % for
// logits of the CUDA backend on a chain of strong feedback).
bool IsExact(const CheckOptions& options);
Tolerance ToleranceFor(const GoldenCase& golden, const CheckOptions& options);

absl::StatusOr<CaseReport> CheckCase(const GoldenCase& golden, const CheckOptions& options);

struct RecallReport {
  int32_t prompts = 0, equal = 0;
  std::vector<std::string> misses;  // a line for each prompt answered otherwise
};
// Free-running greedy answers of the model in `model_dir`.
absl::StatusOr<RecallReport> CheckRecallPrompts(absl::Span<const RecallPrompt> prompts,
                                                const std::string& model_dir, const CheckOptions& options);

// One line: name, "ok" or "FAILED", errors of every path as tensor/row, greedy, failures.
std::string FormatReport(const CaseReport& report);

// Errors of `actual` against `expected`.
TensorErrors CompareSequences(const ModelShape& shape, const SequenceResult& actual,
                              const SequenceResult& expected);

}  // namespace sessa
