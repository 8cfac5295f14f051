// golden_check: does a backend compute what docs/sessa-model.md says? Prints one line a case; exit status 1
// when one is out of tolerance, 2 when something could not be run.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "runtime/backend.h"
#include "tools/check_case.h"

ABSL_FLAG(std::string, backend, "auto", "auto, cpu, cuda or reference");
ABSL_FLAG(std::string, state_dtype, "both",
          "how state is stored: f32, compact (bf16, s in fp16: what bf16 checkpoints are served with), or "
          "both, one "
          "after the other");
ABSL_FLAG(std::string, round_weights, "auto",
          "none, bf16 (round the weights first, for both sides of the comparison), or auto: bf16 for the "
          "cuda backend and for compact state");
ABSL_FLAG(std::string, recall, "",
          "a file of recall prompts: checks their answers instead of golden cases (--model)");
ABSL_FLAG(std::string, model, "models/sessa-recall-7m", "checkpoint folder for --recall");
ABSL_FLAG(int32_t, cpu_threads, 1, "threads of the cpu backend");
ABSL_FLAG(int32_t, device, 0, "ordinal of the CUDA device");

namespace sessa {
namespace {

int Fail(const std::string& subject, const absl::Status& status) {
  std::fprintf(stderr, "golden_check: %s: %s\n", subject.c_str(), status.ToString().c_str());
  return 2;
}

// What to check with, in this order.
absl::StatusOr<std::vector<CheckOptions>> OptionsFromFlags() {
  CheckOptions options;
  options.ops.cpu_threads = absl::GetFlag(FLAGS_cpu_threads);
  options.ops.device = absl::GetFlag(FLAGS_device);
  const std::string state = absl::GetFlag(FLAGS_state_dtype), round = absl::GetFlag(FLAGS_round_weights);
  if (state != "f32" && state != "compact" && state != "both")
    return absl::InvalidArgumentError("--state_dtype is f32, compact or both");
  if (round != "none" && round != "bf16" && round != "auto") {
    return absl::InvalidArgumentError("--round_weights is none, bf16 or auto");
  }
  absl::StatusOr<std::string> backend = ResolveBackend(absl::GetFlag(FLAGS_backend), options.ops);
  if (!backend.ok()) return backend.status();
  options.backend = *std::move(backend);
  std::vector<CheckOptions> all;
  for (const StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    if (state != "both" && state != Name(dtype)) continue;
    options.ops.state_dtype = dtype;
    const bool rounds = options.backend == "cuda" || dtype == StateDtype::kCompact;
    options.round_weights = round == "bf16" || (round == "auto" && rounds);
    all.push_back(options);
  }
  return all;
}

int CheckCases(const std::vector<std::string>& dirs, const CheckOptions& options) {
  int status = 0;
  for (const std::string& dir : dirs) {
    absl::StatusOr<GoldenCase> golden = LoadGoldenCase(dir);
    if (!golden.ok()) return Fail(dir, golden.status());
    absl::StatusOr<CaseReport> report = CheckCase(*golden, options);
    if (!report.ok()) return Fail(dir, report.status());
    std::printf("%s\n", FormatReport(*report).c_str());
    std::fflush(stdout);
    if (!report->failures.empty()) status = 1;
  }
  return status;
}

int CheckRecall(const std::string& file, const std::string& model_dir, const CheckOptions& options) {
  absl::StatusOr<std::vector<RecallPrompt>> prompts = LoadRecallPrompts(file);
  if (!prompts.ok()) return Fail(file, prompts.status());
  absl::StatusOr<RecallReport> report = CheckRecallPrompts(*prompts, model_dir, options);
  if (!report.ok()) return Fail(model_dir, report.status());
  std::printf("recall %s %s %d/%d answers\n", Name(options.ops.state_dtype),
              report->equal == report->prompts ? "ok" : "FAILED", report->equal, report->prompts);
  for (const std::string& miss : report->misses) std::printf("  %s\n", miss.c_str());
  return report->equal == report->prompts ? 0 : 1;
}

}  // namespace
}  // namespace sessa

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "checks a backend against golden cases.\n\n  golden_check [flags] DIR...\n  golden_check [flags] "
      "--recall=FILE "
      "--model=DIR");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  const std::vector<std::string> dirs(arguments.begin() + 1, arguments.end());
  const std::string recall = absl::GetFlag(FLAGS_recall);
  absl::StatusOr<std::vector<sessa::CheckOptions>> all = sessa::OptionsFromFlags();
  if (!all.ok()) return sessa::Fail("flags", all.status());
  if (dirs.empty() == recall.empty()) {
    return sessa::Fail("arguments", absl::InvalidArgumentError("either folders of golden cases or --recall"));
  }
  int status = 0;
  for (const sessa::CheckOptions& options : *all) {
    const int found = recall.empty() ? sessa::CheckCases(dirs, options)
                                     : sessa::CheckRecall(recall, absl::GetFlag(FLAGS_model), options);
    status = std::max(status, found);
  }
  return status;
}
