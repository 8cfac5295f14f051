// A turn as the engine holds it: from Submit to its terminal event.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "scheduler/request.h"
#include "scheduler/session.h"

namespace sessa {

class TurnStream;

// One of the n samples of a turn. Sample 0 writes the session's own sequence, the others forks of it.
struct Sample {
  int32_t index = 0;
  Sequence* sequence = nullptr;
  std::unique_ptr<Sequence> own_sequence;  // of samples that are forks
  SampleParams params;
  bool can_run_ahead = false;
  bool uses_counts = false;  // a penalty asks for them
  TokenCounts counts;        // of the whole sequence
  int32_t generated = 0;     // tokens sampled and appended

  bool ready = false;     // false: a fork that has not been made yet
  bool resident = false;  // has a place in the batch
  int32_t slot = -1;      // of the place (OutputRow::slot)
  int32_t aging = 0;      // of its priority, when it got the place
  int32_t in_flight = 0;  // outputs launched and not collected: 0, 1, or 2 when running ahead
  bool ended = false;     // gets no more steps
  bool closed = false;    // its SampleFinished is on its way
  FinishReason reason = FinishReason::kStop;
  int32_t stop_token = -1;
  absl::Status error;  // not OK: this sample's numbers went wrong
};

enum class TurnPhase {
  kTokenizing,  // its prompt is with the tokenizer pool
  kWaiting,     // has no place in the batch yet
  kRunning,     // started: its prompt is part of the session
};

// Engine-thread only.
struct Turn {
  uint64_t id = 0;  // ascending in order of arrival
  std::shared_ptr<const TurnRequest> request;
  std::shared_ptr<TurnStream> stream;
  TurnPhase phase = TurnPhase::kTokenizing;
  std::shared_ptr<std::atomic<bool>> prompt_unwanted;  // the turn ended before its prompt was encoded

  Session* session = nullptr;
  std::unique_ptr<Session> own_session;  // of a turn without a kept session
  bool created_session = false;  // the session was made for this turn: it goes if the turn never starts

  std::vector<int32_t> prompt;  // with BOS, until the turn starts
  int64_t start = 0;            // session position before the prompt
  int64_t prompt_end = 0;       // and after it
  int64_t cached_tokens = 0, recomputed_tokens = 0;
  int64_t prefill_from = 0;    // for progress
  int64_t scored_until = 0;    // prompt_logprobs were given for positions before that
  SampleParams prompt_params;  // of prompt_logprobs

  std::vector<Sample> samples;  // made at the start
  bool paused = false;
  int32_t principal = 0;  // index into the engine's table
  absl::Status error;     // not OK: the turn ends with it
  absl::Time submitted, started;
  absl::Time first_token = absl::InfiniteFuture();
  absl::Time cancelled = absl::InfiniteFuture();

  bool samples_tokens() const { return request->max_tokens > 0; }
};

}  // namespace sessa
