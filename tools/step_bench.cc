// step_bench: how long a step takes, and how close that is to what the machine can do. Prints one JSON line a
// cell.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "runtime/backend.h"
#include "runtime/checkpoint/checkpoint.h"
#include "tools/random_weights.h"
#include "tools/step_timer.h"
#include "tools/step_work.h"

ABSL_FLAG(std::string, backend, "auto", "auto, cpu, cuda or reference");
ABSL_FLAG(std::string, model, "", "checkpoint folder; or use --shape");
ABSL_FLAG(std::vector<std::string>, shape, {},
          "D,L,H,KV,V: width, layers, heads, kv heads, vocabulary; random bf16 weights");
ABSL_FLAG(std::string, op, "decode",
          "decode: one token for every session; prefill: `context` tokens for every session");
ABSL_FLAG(std::vector<std::string>, batch, {"1"}, "sessions; a list makes a cell of each");
ABSL_FLAG(std::vector<std::string>, context, {"512"},
          "tokens of a session (decode: before the step); a list as well");
ABSL_FLAG(std::string, state_dtype, "compact", "how state is stored: compact (bf16, s in fp16) or f32");
ABSL_FLAG(int32_t, cpu_threads, 0, "threads of the CPU backends; 0: one for each core");
ABSL_FLAG(int32_t, device, 0, "ordinal of the CUDA device");
ABSL_FLAG(int32_t, max_rows, 2048, "rows of a prefill step");
ABSL_FLAG(int32_t, warmup, 5, "steps (decode) or prefills before the timed ones");
ABSL_FLAG(int32_t, repeats, 30, "timed steps (decode) or prefills");
ABSL_FLAG(double, max_seconds, 10, "stop repeating a cell after that many seconds (three repeats at least)");
ABSL_FLAG(bool, pipelined, true,
          "launch a step before the last one's tokens are known, where the backend can");

namespace sessa {
namespace {

struct Cell {
  int32_t batch = 0;
  int64_t context = 0;
};

absl::StatusOr<std::vector<int32_t>> Numbers(const std::vector<std::string>& texts, const char* flag) {
  std::vector<int32_t> numbers;
  for (const std::string& text : texts) {
    int32_t number;
    if (!absl::SimpleAtoi(text, &number) || number <= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag, ": \"", text, "\" is not a positive number"));
    }
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<ModelShape> ShapeFromFlag() {
  absl::StatusOr<std::vector<int32_t>> numbers = Numbers(absl::GetFlag(FLAGS_shape), "shape");
  if (!numbers.ok()) return numbers.status();
  if (numbers->size() != 5) return absl::InvalidArgumentError("--shape is D,L,H,KV,V");
  ModelShape shape;
  shape.width = (*numbers)[0];
  shape.layers = (*numbers)[1];
  shape.heads = (*numbers)[2];
  shape.kv_heads = (*numbers)[3];
  shape.vocab = (*numbers)[4];
  if (shape.width % shape.heads != 0 || shape.heads % shape.kv_heads != 0 || shape.head_width() % 2 != 0) {
    return absl::InvalidArgumentError(
        "--shape: D must be a multiple of H with an even quotient, H a multiple of KV");
  }
  return shape;
}

TimerOptions TimerFromFlags() {
  TimerOptions options;
  options.warmup = absl::GetFlag(FLAGS_warmup);
  options.repeats = absl::GetFlag(FLAGS_repeats);
  options.max_seconds = absl::GetFlag(FLAGS_max_seconds);
  options.max_rows = absl::GetFlag(FLAGS_max_rows);
  options.pipelined = absl::GetFlag(FLAGS_pipelined);
  return options;
}

// All but lists and shape, which are checked as they are read.
absl::Status CheckFlags() {
  const std::string op = absl::GetFlag(FLAGS_op), state = absl::GetFlag(FLAGS_state_dtype);
  if (op != "decode" && op != "prefill") return absl::InvalidArgumentError("--op is decode or prefill");
  if (state != "compact" && state != "f32")
    return absl::InvalidArgumentError("--state_dtype is compact or f32");
  if (absl::GetFlag(FLAGS_model).empty() == absl::GetFlag(FLAGS_shape).empty())
    return absl::InvalidArgumentError("give either --model or --shape");
  if (absl::GetFlag(FLAGS_cpu_threads) < 0 || absl::GetFlag(FLAGS_device) < 0)
    return absl::InvalidArgumentError("--cpu_threads and --device must be at least 0");
  const absl::Status timer = CheckTimerOptions(TimerFromFlags());
  return timer.ok() ? timer : absl::InvalidArgumentError(absl::StrCat("--", timer.message()));
}

absl::StatusOr<Backend> MakeBackend(const OpsOptions& options) {
  const std::string name = absl::GetFlag(FLAGS_backend), dir = absl::GetFlag(FLAGS_model);
  if (!dir.empty()) {
    absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = LoadCheckpoint(dir);
    if (!checkpoint.ok()) return checkpoint.status();
    return CreateBackend(name, (*checkpoint)->shape(), (*checkpoint)->tensors(), options);
  }
  absl::StatusOr<ModelShape> shape = ShapeFromFlag();
  if (!shape.ok()) return shape.status();
  return CreateBackend(name, *shape, RandomWeights(*shape, /*seed=*/1).tensors(), options);
}

class Bench {
 public:
  Bench(std::unique_ptr<Ops> ops, bool decode, const TimerOptions& timer)
      : model_(std::move(ops)), decode_(decode), timer_(timer) {}

  // Memory for the largest cell, or as much of it as there is.
  absl::Status Allocate(absl::Span<const Cell> cells);
  // Prints the line of a cell.
  absl::Status Run(const Cell& cell);

 private:
  int64_t PagesOf(const Cell& cell) const {
    const int64_t tokens = decode_ ? DecodeTokens(cell.context, timer_) : cell.context;
    return cell.batch * ((tokens + kPageTokens - 1) / kPageTokens);
  }
  nlohmann::ordered_json Measured(const Cell& cell, const Timing& timing) const;

  Model model_;
  const bool decode_;
  const TimerOptions timer_;
  std::optional<StateArena> arena_;
  DeviceRates rates_;
};

absl::Status Bench::Allocate(absl::Span<const Cell> cells) {
  const StateLayout& layout = model_.ops().layout();
  int64_t pages = 0;
  int32_t open_pages = 0;
  for (const Cell& cell : cells) {
    pages = std::max(pages, PagesOf(cell));
    if (layout.has_open_pages()) open_pages = std::max(open_pages, cell.batch);
  }
  const int64_t room = model_.ops().AvailableStateBytes() - open_pages * layout.open_page_bytes();
  pages = std::clamp<int64_t>(pages, 1, std::max<int64_t>(1, room / layout.page_bytes()));
  absl::Status status = model_.ops().AllocateState(static_cast<int32_t>(pages), open_pages);
  if (!status.ok()) return status;
  arena_.emplace(static_cast<int32_t>(pages), open_pages);
  if (decode_) model_.ops().FillState(/*seed=*/1);
  rates_ = model_.ops().MeasureRates();
  return absl::OkStatus();
}

nlohmann::ordered_json Bench::Measured(const Cell& cell, const Timing& timing) const {
  const StateLayout& layout = model_.ops().layout();
  const double seconds = timing.MedianSeconds();
  const Work work = decode_
                        ? DecodeWork(layout, model_.ops().info(), cell.batch, cell.context)
                        : PrefillWork(layout, model_.ops().info(), cell.batch, cell.context, timing.steps);
  nlohmann::ordered_json line;
  line["seconds"] = seconds;
  line["tokens_per_second"] = cell.batch * (decode_ ? 1 : cell.context) / seconds;
  line["device_seconds"] = timing.MedianDeviceSeconds();
  line["bytes"] = work.bytes;
  line["flops"] = work.flops;
  // null: the backend did not measure the rate
  line["bandwidth_fraction"] = nullptr;
  line["flop_fraction"] = nullptr;
  if (rates_.copy_bytes_per_second > 0)
    line["bandwidth_fraction"] = work.bytes / seconds / rates_.copy_bytes_per_second;
  if (rates_.gemm_flops_per_second > 0)
    line["flop_fraction"] = work.flops / seconds / rates_.gemm_flops_per_second;
  line["copy_bytes_per_second"] = rates_.copy_bytes_per_second;
  line["gemm_flops_per_second"] = rates_.gemm_flops_per_second;
  line["repeats"] = timing.seconds.size();
  line["steps"] = timing.steps;
  return line;
}

absl::Status Bench::Run(const Cell& cell) {
  const StateLayout& layout = model_.ops().layout();
  nlohmann::ordered_json line = {{"op", decode_ ? "decode" : "prefill"},
                                 {"backend", model_.ops().info().name},
                                 {"batch", cell.batch},
                                 {"context", cell.context},
                                 {"state_dtype", layout.dtype == StateDtype::kF32 ? "f32" : "compact"}};
  const int64_t pages = PagesOf(cell);
  if (pages > arena_->total(PageKind::kState)) {
    line["skipped"] =
        absl::StrCat("needs ", pages * layout.page_bytes(), " bytes of state, there is room for ",
                     arena_->total(PageKind::kState) * layout.page_bytes());
  } else {
    absl::StatusOr<Timing> timing = decode_
                                        ? TimeDecode(&model_, &*arena_, cell.batch, cell.context, timer_)
                                        : TimePrefill(&model_, &*arena_, cell.batch, cell.context, timer_);
    if (!timing.ok()) return timing.status();
    line.update(Measured(cell, *timing));
  }
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status Main() {
  absl::Status status = CheckFlags();
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<int32_t>> batches = Numbers(absl::GetFlag(FLAGS_batch), "batch");
  absl::StatusOr<std::vector<int32_t>> contexts = Numbers(absl::GetFlag(FLAGS_context), "context");
  if (!batches.ok()) return batches.status();
  if (!contexts.ok()) return contexts.status();
  std::vector<Cell> cells;
  for (int32_t batch : *batches) {
    for (int32_t context : *contexts) cells.push_back({batch, context});
  }

  OpsOptions options;
  options.max_segments = *std::max_element(batches->begin(), batches->end());
  options.max_rows = std::max(absl::GetFlag(FLAGS_max_rows), options.max_segments);
  options.state_dtype = absl::GetFlag(FLAGS_state_dtype) == "f32" ? StateDtype::kF32 : StateDtype::kCompact;
  options.cpu_threads = absl::GetFlag(FLAGS_cpu_threads);
  if (options.cpu_threads == 0) options.cpu_threads = std::max(1u, std::thread::hardware_concurrency());
  options.device = absl::GetFlag(FLAGS_device);
  absl::StatusOr<Backend> backend = MakeBackend(options);
  if (!backend.ok()) return backend.status();
  std::fprintf(stderr, "%s%s%s\n", backend->ops->info().description.c_str(),
               backend->note.empty() ? "" : "; ", backend->note.c_str());

  Bench bench(std::move(backend->ops), absl::GetFlag(FLAGS_op) == "decode", TimerFromFlags());
  status = bench.Allocate(cells);
  for (const Cell& cell : cells) {
    if (status.ok()) status = bench.Run(cell);
  }
  return status;
}

}  // namespace
}  // namespace sessa

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("times steps.\n\n  step_bench --model=DIR | --shape=D,L,H,KV,V [flags]");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = sessa::Main();
  if (status.ok()) return 0;
  std::fprintf(stderr, "step_bench: %s\n", status.ToString().c_str());
  return 1;
}
