// A turn as the server hands it down, and what travels back up. Plain data: nothing here knows of gRPC.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/sampling.h"

namespace sessa {

// Who asks. One constant until there is authentication.
struct Principal {
  std::string name = "default";
};

enum class FinishReason {
  kStop,
  kEos,
  kLength,
  kContextFull,
  kCancelled,
  kDeadline,
  kDrained,
  kInterrupted,
  kError
};

// --- upwards: the events of a turn ---
struct Restore {  // how the session's earlier state came to be there
  enum class Tier { kNone, kDevice, kRecomputed } tier = Tier::kNone;  // kNone: a new session
  int64_t tokens_restored = 0;
  int64_t tokens_recomputed = 0;
};
struct StartedEvent {      // admitted, and the session's state is on the device or being recomputed
  std::string session_id;  // also of a session that is not kept
  std::string request_id;
  uint64_t seed = 0;
  int64_t position = 0;  // of the session before this turn
  int32_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // tokens of session + prompt whose state was there already
  Restore restore;
};
struct ProgressEvent {  // of a prefill that takes more than one step
  int64_t tokens_done = 0, tokens_total = 0;
};
struct PromptLogprobsEvent {
  int64_t position = 0;              // of the first entry
  std::vector<OutputResult> tokens;  // one a prompt token
};
struct DeltaEvent {
  int32_t index = 0;     // sample, of n
  int64_t position = 0;  // in the session, of the first token; where token_ids is empty, of the next one
  std::vector<int32_t> token_ids;
  std::string text;  // valid UTF-8; may be empty while a character or a stop string is held back
  std::vector<OutputResult> logprobs;  // aligned with token_ids, or empty
};
struct SampleFinishedEvent {
  int32_t index = 0;
  FinishReason reason = FinishReason::kStop;
  std::string stop_matched;  // the stop string, if one ended it
  int32_t stop_token = -1;   // the EOS or stop token, if one ended it
};
struct FinishedEvent {
  int64_t position = 0;  // of the session after the turn
  int32_t prompt_tokens = 0, generated_tokens = 0;
  int64_t cached_tokens = 0, recomputed_tokens = 0;
  absl::Duration queue_time, prefill_time, decode_time;
};

// Where a turn's events go. Called by the emitter thread, one call at a time, and must not block: the
// implementation queues. Exactly one of OnFinished and OnError is called, last.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void OnStarted(StartedEvent event) = 0;
  virtual void OnProgress(ProgressEvent event) = 0;
  virtual void OnPromptLogprobs(PromptLogprobsEvent event) = 0;
  virtual void OnDelta(DeltaEvent event) = 0;
  virtual void OnSampleFinished(SampleFinishedEvent event) = 0;
  virtual void OnFinished(FinishedEvent event) = 0;
  virtual void OnError(absl::Status status) = 0;  // see runtime/base/errors.h
};

// --- downwards ---
struct TurnRequest {
  std::string request_id;  // unique within the principal; made up by the server when the client gave none
  Principal principal;
  std::string session_id;     // empty: a new session
  bool keep_session = false;  // of a new session; otherwise it ends with the turn
  bool append = true;         // to session_id; false: the turn begins after its tokens and leaves it as it is
  std::variant<std::string, std::vector<int32_t>> prompt;  // text, or token ids
  SampleParams sampling;                                   // shared by all n samples but for sample_index
  int32_t n = 1;                                           // samples; > 1 only where the session is not kept
  int32_t max_tokens = 256;                                // 0: only the prompt is appended
  std::vector<std::string> stop;                           // stop strings
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop = false;  // the matched stop string is part of the text
  bool skip_special_tokens = true;
  int32_t prompt_logprobs = -1;  // -1: none; n: each prompt token's own and the n most likely
  int32_t priority = 0;          // higher goes first
  std::optional<int64_t> expected_position;
  bool paused = false;     // begins as Core::SetPaused leaves it
  bool continues = false;  // of a call that ran earlier turns: taken while the server drains, too
  absl::Time deadline = absl::InfiniteFuture();
  std::shared_ptr<TokenSink> sink;
};

}  // namespace sessa
