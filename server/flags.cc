#include "server/flags.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/version.h"

ABSL_FLAG(
    std::string, model, "",
    "Folder of the checkpoint: config.json, *.safetensors, tokenizer.model. Default: the embedded "
    "sessa-recall-7m, looked for in ../models and ../../models beside the program, in the source tree and in "
    "/usr/share/sessad/models.");
ABSL_FLAG(
    std::string, listen, "127.0.0.1:50051",
    "Where gRPC is served: HOST:PORT, [IPv6]:PORT or unix:PATH. Port 0 takes a free port (it is logged). "
    "There is no authentication: do not open it to networks that you do not trust.");
ABSL_FLAG(std::string, metrics_listen, "127.0.0.1:9464",
          "Where the operator's HTTP is served (/metrics, /healthz, /version): HOST:PORT. Empty: nowhere.");
ABSL_FLAG(std::string, data_dir, "",
          "Folder of the session store. Not used while --durability=none, the only level so far.");
ABSL_FLAG(std::string, backend, "auto",
          "What computes: auto (cuda where there is a driver, a card and the plugin, else cpu; a card that "
          "is full or fails "
          "is an error at start), cpu, cuda, or reference (plain loops, slow, the oracle of the tests).");
ABSL_FLAG(
    bool, batch_invariant, true,
    "Decoding gives the same bits alone and in any company. Every backend works so at no cost, so false is "
    "refused: there is no faster way to switch to.");
ABSL_FLAG(int32_t, device, 0, "CUDA device ordinal; other backends ignore it.");
ABSL_FLAG(int32_t, cpu_threads, 0,
          "Threads of the CPU backend, at most 4096. Default 0: one for each core that the process may use.");
ABSL_FLAG(int32_t, tokenizer_threads, 2,
          "Threads that turn text into tokens and back. A text of more than 32 KiB never takes the last of "
          "several, so that short prompts do not wait for it.");
ABSL_FLAG(std::string, state_memory, "auto",
          "Memory for the sessions' recurrent state: bytes with an optional suffix K, M, G or T, or auto (a "
          "quarter of RAM on a CPU, but at most half of what the machine and its control groups have left; "
          "what is free less a reserve on a GPU). Touched only as it is used. When it is full, the longest "
          "idle session gives its state up and has it computed again on its return.");
ABSL_FLAG(std::string, state_dtype, "auto",
          "Numbers of the state: f32; compact (k, v and kb in bf16, s in fp16: half the memory and half the "
          "traffic); auto: compact for bf16 checkpoints, else f32. On a GPU f32 is the slow path: generic "
          "kernels.");
ABSL_FLAG(int32_t, max_batch_tokens, 512,
          "Tokens of a step: the decoding sessions' one each, the rest for prefill. Larger: faster prefill; "
          "smaller: shorter gaps for the others while a long prompt is read. At most 16384 on a GPU, whose "
          "memory for "
          "prefill grows with its square from some thousands on.");
ABSL_FLAG(int32_t, max_batch_sessions, 256, "Sessions that run at once; further ones wait.");
ABSL_FLAG(int32_t, max_waiting, 1024,
          "Requests that may wait; further ones get RESOURCE_EXHAUSTED with a time to retry.");
ABSL_FLAG(
    int32_t, max_sessions, 100000,
    "Kept sessions, whose tokens are held in memory. While there are so many, a new one is refused with "
    "RESOURCE_EXHAUSTED, TOO_MANY_SESSIONS.");
ABSL_FLAG(int64_t, max_context, 0,
          "Tokens that a session may hold. Default 0: max_position_embeddings of the model, beyond which it "
          "was not "
          "trained.");
ABSL_FLAG(
    std::string, durability, "none",
    "When a token counts as kept: none (memory only; sessions end with the process). The levels process and "
    "power need the session store, which this build does not have.");
ABSL_FLAG(
    absl::Duration, drain_timeout, absl::Seconds(30),
    "After SIGTERM or SIGINT, or Admin.Drain: how long running requests may go on before they are ended with "
    "DRAINED. A duration: 500ms, 30s, 2m.");
ABSL_FLAG(
    absl::Duration, slow_reader_timeout, absl::Seconds(30),
    "A client that takes nothing from its stream for so long is ended with ABORTED, SLOW_READER; its session "
    "keeps what it had. A duration.");
ABSL_FLAG(absl::Duration, stall_timeout, absl::Seconds(20),
          "Health says NOT_SERVING when there is work but no step has finished for so long. A duration.");
ABSL_FLAG(absl::Duration, idle_state_ttl, absl::Minutes(10),
          "The state of a session that nobody used for so long gives its memory back; it is computed again "
          "when the "
          "session returns. A duration.");
ABSL_FLAG(absl::Duration, idle_session_ttl, absl::Hours(24),
          "A kept session that nobody used for so long is forgotten. A duration.");
ABSL_FLAG(std::string, max_request_bytes, "4M",
          "The largest request message; larger ones get RESOURCE_EXHAUSTED. Bytes with an optional suffix.");
ABSL_FLAG(int32_t, max_streams_per_connection, 1024,
          "Calls that one connection may have open; further ones wait.");
ABSL_FLAG(std::string, log_format, "text", "Lines on stderr: text, or json (one object a line).");

namespace sessa {
namespace {

absl::Status BadFlag(absl::string_view flag, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", message));
}

absl::Status CheckAtLeast(absl::string_view flag, int64_t value, int64_t least) {
  if (value >= least) return absl::OkStatus();
  return BadFlag(flag, absl::StrCat("must be at least ", least, ", not ", value));
}

absl::Status CheckAtMost(absl::string_view flag, int64_t value, int64_t most) {
  if (value <= most) return absl::OkStatus();
  return BadFlag(flag, absl::StrCat("must be at most ", most, ", not ", value));
}

absl::Status CheckPositive(absl::string_view flag, absl::Duration value) {
  if (value > absl::ZeroDuration()) return absl::OkStatus();
  return BadFlag(flag, absl::StrCat("must be longer than 0, not ", absl::FormatDuration(value)));
}

absl::Status CheckOneOf(absl::string_view flag, const std::string& value, std::vector<std::string> allowed) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return absl::OkStatus();
  std::string list;
  for (size_t i = 0; i < allowed.size(); ++i) {
    absl::StrAppend(&list, i == 0 ? "" : i + 1 == allowed.size() ? " or " : ", ", allowed[i]);
  }
  return BadFlag(flag, absl::StrCat("must be ", list, ", not '", value, "'"));
}

int32_t UsableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

// The embedded model: beside the program as installed or built, in the source tree, or where packages put it.
absl::StatusOr<std::string> FindEmbeddedModel() {
  namespace fs = std::filesystem;
  constexpr char kName[] = "sessa-recall-7m";
  std::error_code error;
  const fs::path bin = fs::read_symlink("/proc/self/exe", error).parent_path();
  const fs::path candidates[] = {bin / "../models", bin / "../../models", fs::path(kSourceDir) / "models",
                                 "/usr/share/sessad/models"};
  std::string tried;
  for (const fs::path& folder : candidates) {
    const fs::path model = (folder / kName).lexically_normal();
    if (fs::exists(model / "config.json", error)) return model.string();
    absl::StrAppend(&tried, tried.empty() ? "" : ", ", model.string());
  }
  return BadFlag("model",
                 absl::StrCat("the embedded model was not found (tried ", tried, "); give a folder"));
}

absl::StatusOr<std::string> ModelDir() {
  const std::string dir = absl::GetFlag(FLAGS_model);
  if (dir.empty()) return FindEmbeddedModel();
  std::error_code error;
  if (!std::filesystem::is_directory(dir, error)) {
    return BadFlag("model", absl::StrCat("'", dir, "' is not a folder"));
  }
  return dir;
}

absl::Status CheckListen(absl::string_view flag, const std::string& value) {
  const auto parsed = ParseHostPort(value);
  return parsed.ok() ? absl::OkStatus() : BadFlag(flag, parsed.status().message());
}

absl::Status CheckDurability() {
  const std::string level = absl::GetFlag(FLAGS_durability);
  const absl::Status known = CheckOneOf("durability", level, {"none", "process", "power"});
  if (!known.ok() || level == "none") return known;
  return BadFlag("durability", absl::StrCat("'", level,
                                            "' needs the session store, which this build does not have; "
                                            "only none is possible: sessions end with the process"));
}

absl::Status CheckNumbers() {
  const absl::Status checks[] = {
      CheckAtLeast("device", absl::GetFlag(FLAGS_device), 0),
      CheckAtLeast("cpu_threads", absl::GetFlag(FLAGS_cpu_threads), 0),
      CheckAtLeast("max_batch_tokens", absl::GetFlag(FLAGS_max_batch_tokens), 1),
      CheckAtLeast("max_batch_sessions", absl::GetFlag(FLAGS_max_batch_sessions), 1),
      CheckAtLeast("max_waiting", absl::GetFlag(FLAGS_max_waiting), 1),
      CheckAtLeast("max_sessions", absl::GetFlag(FLAGS_max_sessions), 1),
      CheckAtLeast("tokenizer_threads", absl::GetFlag(FLAGS_tokenizer_threads), 1),
      CheckAtLeast("max_context", absl::GetFlag(FLAGS_max_context), 0),
      CheckAtMost("max_context", absl::GetFlag(FLAGS_max_context), kMostContext),
      CheckAtLeast("max_streams_per_connection", absl::GetFlag(FLAGS_max_streams_per_connection), 1),
      CheckPositive("slow_reader_timeout", absl::GetFlag(FLAGS_slow_reader_timeout)),
      CheckPositive("stall_timeout", absl::GetFlag(FLAGS_stall_timeout)),
      CheckPositive("idle_state_ttl", absl::GetFlag(FLAGS_idle_state_ttl)),
      CheckPositive("idle_session_ttl", absl::GetFlag(FLAGS_idle_session_ttl)),
  };
  for (const absl::Status& check : checks) {
    if (!check.ok()) return check;
  }
  if (absl::GetFlag(FLAGS_cpu_threads) > 4096) return BadFlag("cpu_threads", "must be at most 4096");
  if (!absl::GetFlag(FLAGS_batch_invariant)) {
    return BadFlag("batch_invariant", "must be true: decoding is so by construction, and no way is faster");
  }
  if (absl::GetFlag(FLAGS_drain_timeout) < absl::ZeroDuration()) {
    return BadFlag("drain_timeout", "must not be negative");
  }
  if (absl::GetFlag(FLAGS_max_batch_tokens) < absl::GetFlag(FLAGS_max_batch_sessions)) {
    return BadFlag("max_batch_tokens",
                   "must be at least --max_batch_sessions: every decoding session is in every step");
  }
  return absl::OkStatus();
}

absl::Status CheckTexts() {
  const std::string listen = absl::GetFlag(FLAGS_listen), metrics = absl::GetFlag(FLAGS_metrics_listen);
  const bool is_unix = absl::StartsWith(listen, "unix:") && listen.size() > 5;
  const absl::Status checks[] = {
      is_unix ? absl::OkStatus() : CheckListen("listen", listen),
      metrics.empty() ? absl::OkStatus() : CheckListen("metrics_listen", metrics),
      CheckOneOf("backend", absl::GetFlag(FLAGS_backend), {"auto", "cpu", "cuda", "reference"}),
      CheckOneOf("state_dtype", absl::GetFlag(FLAGS_state_dtype), {"auto", "f32", "compact"}),
      CheckOneOf("log_format", absl::GetFlag(FLAGS_log_format), {"text", "json"}),
      CheckDurability(),
  };
  for (const absl::Status& check : checks) {
    if (!check.ok()) return check;
  }
  return absl::OkStatus();
}

absl::Status ReadByteFlags(DaemonOptions* options) {
  if (const std::string text = absl::GetFlag(FLAGS_state_memory); text != "auto") {
    const auto bytes = ParseBytes(text);
    if (!bytes.ok()) return BadFlag("state_memory", absl::StrCat(bytes.status().message(), ", or auto"));
    options->state_memory = *bytes;
  }
  const auto request = ParseBytes(absl::GetFlag(FLAGS_max_request_bytes));
  if (!request.ok()) return BadFlag("max_request_bytes", request.status().message());
  if (*request < 1024 || *request > (int64_t{1} << 30)) {
    return BadFlag("max_request_bytes", "must lie between 1K and 1G");
  }
  options->max_request_bytes = static_cast<int32_t>(*request);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DaemonOptions> ValidateFlags() {
  for (const absl::Status& check : {CheckTexts(), CheckNumbers()}) {
    if (!check.ok()) return check;
  }
  DaemonOptions options;
  if (absl::Status read = ReadByteFlags(&options); !read.ok()) return read;
  auto model_dir = ModelDir();
  if (!model_dir.ok()) return model_dir.status();
  options.model_dir = *std::move(model_dir);
  options.listen = absl::GetFlag(FLAGS_listen);
  options.metrics_listen = absl::GetFlag(FLAGS_metrics_listen);
  options.data_dir = absl::GetFlag(FLAGS_data_dir);
  options.backend = absl::GetFlag(FLAGS_backend);
  options.device = absl::GetFlag(FLAGS_device);
  const int32_t threads = absl::GetFlag(FLAGS_cpu_threads);
  options.cpu_threads = threads > 0 ? threads : UsableCores();
  options.tokenizer_threads = absl::GetFlag(FLAGS_tokenizer_threads);
  options.state_dtype = absl::GetFlag(FLAGS_state_dtype);
  options.max_batch_tokens = absl::GetFlag(FLAGS_max_batch_tokens);
  options.max_batch_sessions = absl::GetFlag(FLAGS_max_batch_sessions);
  options.max_waiting = absl::GetFlag(FLAGS_max_waiting);
  options.max_sessions = absl::GetFlag(FLAGS_max_sessions);
  options.max_context = absl::GetFlag(FLAGS_max_context);
  options.drain_timeout = absl::GetFlag(FLAGS_drain_timeout);
  options.slow_reader_timeout = absl::GetFlag(FLAGS_slow_reader_timeout);
  options.stall_timeout = absl::GetFlag(FLAGS_stall_timeout);
  options.idle_state_ttl = absl::GetFlag(FLAGS_idle_state_ttl);
  options.idle_session_ttl = absl::GetFlag(FLAGS_idle_session_ttl);
  options.max_streams_per_connection = absl::GetFlag(FLAGS_max_streams_per_connection);
  options.log_format = absl::GetFlag(FLAGS_log_format);
  return options;
}

}  // namespace sessa
