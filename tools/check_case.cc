#include "tools/check_case.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "runtime/backend.h"
#include "runtime/model.h"
#include "tools/random_weights.h"
#include "tools/rounded_weights.h"

namespace sessa {
namespace {

constexpr float kExactMargin = 1e-3f;   // below it a float32 backend may pick the other token
constexpr double kMinQualifying = 0.9;  // of the teacher-forced positions

// A backend with memory for one session.
struct Runner {
  std::unique_ptr<Model> model;
  std::unique_ptr<StateArena> arena;
};

absl::StatusOr<Runner> MakeRunner(const std::string& backend, const ModelShape& shape,
                                  const ModelTensors& tensors, OpsOptions options, int32_t tokens) {
  options.max_rows = std::max(options.max_rows, tokens);
  absl::StatusOr<Backend> made = CreateBackend(backend, shape, tensors, options);
  if (!made.ok()) return made.status();
  const int32_t pages = PagesForTokens(tokens) + 1;
  const int32_t open_pages = options.state_dtype == StateDtype::kCompact ? 1 : 0;
  absl::Status status = made->ops->AllocateState(pages, open_pages);
  if (!status.ok()) return status;
  return Runner{std::make_unique<Model>(std::move(made->ops)),
                std::make_unique<StateArena>(pages, open_pages)};
}

struct Path {
  const char* name;
  std::vector<int32_t> chunks;
};

std::vector<Path> AllPaths(int32_t tokens) {
  std::vector<Path> paths = {{"whole", {tokens}},
                             {"chunk64", EvenChunks(tokens, 64)},
                             {"chunk7", EvenChunks(tokens, 7)},
                             {"chunk1", EvenChunks(tokens, 1)}};
  std::vector<int32_t> decode = {(tokens + 1) / 2};
  decode.resize(1 + tokens / 2, 1);
  paths.push_back({"decode", std::move(decode)});
  return paths;
}

absl::Status CheckExactGreedy(const GoldenCase& golden, const Runner& runner, CaseReport* report) {
  const auto prompt = absl::MakeConstSpan(golden.tokens).subspan(0, golden.prompt_tokens);
  const int32_t count = static_cast<int32_t>(golden.greedy.size());
  absl::StatusOr<std::vector<int32_t>> greedy =
      RunGreedy(runner.model.get(), runner.arena.get(), prompt, count);
  if (!greedy.ok()) return greedy.status();
  while (report->greedy_compared < count && golden.greedy_margins[report->greedy_compared] >= kExactMargin) {
    report->greedy_equal += (*greedy)[report->greedy_compared] == golden.greedy[report->greedy_compared];
    ++report->greedy_compared;
  }
  return absl::OkStatus();
}

// Compares the greedy choice at every position whose margin is clearly above the error allowed, which is
// relative to the root mean square of a row's logits.
void CheckForcedGreedy(int64_t vocab, double allowed, absl::Span<const float> actual,
                       absl::Span<const float> expected, CaseReport* report) {
  const int64_t rows = static_cast<int64_t>(expected.size()) / vocab;
  for (int64_t row = 0; row < rows; ++row) {
    const auto logits = expected.subspan(row * vocab, vocab);
    const int32_t best = ArgMax(logits);
    double sum = 0, second = -INFINITY;
    for (int64_t i = 0; i < vocab; ++i) {
      sum += double{logits[i]} * logits[i];
      if (i != best) second = std::max<double>(second, logits[i]);
    }
    if (logits[best] - second <= 2 * allowed * std::sqrt(sum / vocab)) continue;
    ++report->greedy_compared;
    report->greedy_equal += ArgMax(actual.subspan(row * vocab, vocab)) == best;
  }
  report->qualifying = static_cast<double>(report->greedy_compared) / rows;
}

void Judge(const GoldenCase& golden, const CheckOptions& options, CaseReport* report) {
  const Tolerance tolerance = ToleranceFor(golden, options);
  for (const PathReport& path : report->paths) {
    for (int i = 0; i < 5; ++i) {
      if (tolerance.Accepts(path.errors[i])) continue;
      report->failures.push_back(absl::StrCat(path.path, " ", kTensorNames[i]));
    }
  }
  if (report->greedy_equal != report->greedy_compared) report->failures.push_back("greedy");
  if (report->qualifying < kMinQualifying) report->failures.push_back("too few clear margins");
}

}  // namespace

const char* Name(StateDtype state) { return state == StateDtype::kF32 ? "f32" : "compact"; }

absl::StatusOr<std::string> ResolveBackend(const std::string& name, const OpsOptions& ops) {
  ModelShape shape;
  shape.vocab = shape.width = 8;
  shape.layers = shape.heads = shape.kv_heads = 1;
  absl::StatusOr<Backend> made = CreateBackend(name, shape, RandomWeights(shape, 1).tensors(), ops);
  if (!made.ok()) return made.status();
  return made->ops->info().name;
}

bool IsExact(const CheckOptions& options) {
  return options.backend != "cuda" && options.ops.state_dtype == StateDtype::kF32 && !options.round_weights;
}

Tolerance ToleranceFor(const GoldenCase& golden, const CheckOptions& options) {
  if (IsExact(options)) return kFloat32Tolerance;
  const bool chain = absl::StrContains(golden.name, "previous_token");
  const double tensor = options.backend == "cuda" && chain ? 2e-2 : 1e-2;
  return {tensor, INFINITY};
}

TensorErrors CompareSequences(const ModelShape& shape, const SequenceResult& actual,
                              const SequenceResult& expected) {
  const int64_t widths[] = {shape.kv_width(), shape.kv_width(), shape.width, shape.width};
  TensorErrors errors;
  errors[0] = Compare(actual.logits, expected.logits, shape.vocab);
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    for (int i = 0; i < 4; ++i) {
      errors[1 + i].Include(Compare(actual.planes[layer][i], expected.planes[layer][i], widths[i]));
    }
  }
  return errors;
}

absl::StatusOr<CaseReport> CheckCase(const GoldenCase& golden, const CheckOptions& options) {
  if (options.backend == "auto") {
    return absl::InvalidArgumentError("what \"auto\" chooses decides how it is judged: ask ResolveBackend");
  }
  const ModelShape& shape = golden.checkpoint->shape();
  const int32_t tokens = static_cast<int32_t>(golden.tokens.size());
  std::optional<RoundedWeights> rounded;
  if (options.round_weights) rounded.emplace(golden.checkpoint->tensors());
  const ModelTensors& tensors = rounded ? rounded->tensors() : golden.checkpoint->tensors();

  SequenceResult expected = golden.expected;
  if (!IsExact(options)) {
    absl::StatusOr<Runner> oracle = MakeRunner("reference", shape, tensors, OpsOptions(), tokens);
    if (!oracle.ok()) return oracle.status();
    absl::StatusOr<SequenceResult> result =
        RunSequence(oracle->model.get(), oracle->arena.get(), golden.tokens, {tokens});
    if (!result.ok()) return result.status();
    expected = *std::move(result);
  }

  const int32_t longest = golden.prompt_tokens + static_cast<int32_t>(golden.greedy.size());
  absl::StatusOr<Runner> runner =
      MakeRunner(options.backend, shape, tensors, options.ops, std::max(tokens, longest));
  if (!runner.ok()) return runner.status();
  CaseReport report;
  report.name = golden.name;
  report.state = options.ops.state_dtype;
  for (const Path& path : AllPaths(tokens)) {
    absl::StatusOr<SequenceResult> actual =
        RunSequence(runner->model.get(), runner->arena.get(), golden.tokens, path.chunks);
    if (!actual.ok()) return actual.status();
    report.paths.push_back({path.name, CompareSequences(shape, *actual, expected)});
    if (!IsExact(options) && report.paths.size() == 1) {
      CheckForcedGreedy(shape.vocab, ToleranceFor(golden, options).tensor, actual->logits, expected.logits,
                        &report);
    }
  }
  if (IsExact(options)) {
    absl::Status status = CheckExactGreedy(golden, *runner, &report);
    if (!status.ok()) return status;
  }
  Judge(golden, options, &report);
  return report;
}

absl::StatusOr<RecallReport> CheckRecallPrompts(absl::Span<const RecallPrompt> prompts,
                                                const std::string& model_dir, const CheckOptions& options) {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = LoadCheckpoint(model_dir);
  if (!checkpoint.ok()) return checkpoint.status();
  size_t longest = 0;
  for (const RecallPrompt& prompt : prompts)
    longest = std::max(longest, prompt.prompt.size() + prompt.answer.size());
  absl::StatusOr<Runner> runner =
      MakeRunner(options.backend, (*checkpoint)->shape(), (*checkpoint)->tensors(), options.ops,
                 static_cast<int32_t>(longest));
  if (!runner.ok()) return runner.status();

  RecallReport report;
  for (const RecallPrompt& prompt : prompts) {
    absl::StatusOr<std::vector<int32_t>> answer =
        RunGreedy(runner->model.get(), runner->arena.get(), prompt.prompt,
                  static_cast<int32_t>(prompt.answer.size()), prompt.answer.back());
    if (!answer.ok()) return answer.status();
    if (*answer == prompt.answer) {
      ++report.equal;
    } else {
      report.misses.push_back(absl::StrCat("prompt ", report.prompts, ": expected ",
                                           absl::StrJoin(prompt.answer, " "), "; got ",
                                           absl::StrJoin(*answer, " ")));
    }
    ++report.prompts;
  }
  return report;
}

std::string FormatReport(const CaseReport& report) {
  std::string line = absl::StrFormat("%-20s %-7s %s", report.name, Name(report.state),
                                     report.failures.empty() ? "ok" : "FAILED");
  for (const PathReport& path : report.paths) {
    absl::StrAppend(&line, "  ", path.path);
    for (int i = 0; i < 5; ++i) {
      absl::StrAppendFormat(&line, " %s %.1e/%.1e", kTensorNames[i], path.errors[i].tensor,
                            path.errors[i].row);
    }
  }
  absl::StrAppendFormat(&line, "  greedy %d/%d", report.greedy_equal, report.greedy_compared);
  if (report.qualifying < 1) absl::StrAppendFormat(&line, " (%.0f%% of positions)", 100 * report.qualifying);
  if (!report.failures.empty())
    absl::StrAppend(&line, "  out of tolerance: ", absl::StrJoin(report.failures, ", "));
  return line;
}

}  // namespace sessa
