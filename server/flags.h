// The flags of sessad: parsed with Abseil, validated here, handed on as one struct.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/flag_values.h"

namespace sessa {

// Tokens of a session that can be counted everywhere.
inline constexpr int64_t kMostContext = int64_t{1} << 30;

// What the flags say, valid and resolved. The flags' own help texts (flags.cc) say what each one does.
struct DaemonOptions {
  std::string model_dir;       // an existing folder
  std::string listen;          // HOST:PORT or unix:PATH
  std::string metrics_listen;  // HOST:PORT; empty: no operator HTTP
  std::string data_dir;
  std::string backend;      // auto, cpu, cuda or reference
  int32_t device = 0;       // CUDA ordinal
  int32_t cpu_threads = 1;  // resolved: at least 1
  int32_t tokenizer_threads = 1;
  std::optional<int64_t> state_memory;  // bytes; nothing: what the backend offers
  std::string state_dtype;              // auto, f32 or compact
  int32_t max_batch_tokens = 0;
  int32_t max_batch_sessions = 0;
  int32_t max_waiting = 0;
  int32_t max_sessions = 0;
  int64_t max_context = 0;  // tokens; 0: what the model was made for
  absl::Duration drain_timeout, slow_reader_timeout, stall_timeout, idle_state_ttl, idle_session_ttl;
  int32_t max_request_bytes = 0;
  int32_t max_streams_per_connection = 0;
  std::string log_format;  // text or json
};

// Parses the command line; answers --help and --version and ends the process itself. An unknown flag or a
// value that does not parse ends it with code 1 and a message that names the flag.
void ParseFlags(int argc, char** argv);

// The options from the flags' current values. INVALID_ARGUMENT names the flag and what it takes.
absl::StatusOr<DaemonOptions> ValidateFlags();

}  // namespace sessa
