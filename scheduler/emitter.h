// The emitter thread: turns the engine's tokens into the events of a turn.
//
// The engine posts what a step gave in one batch. The emitter makes text of tokens, looks for stop strings
// and calls the sinks. A round takes all the steps that have gathered and gives a sink one delta for them, so
// an emitter that is behind does fewer and larger calls. A turn with stop strings ends in two strokes: the
// engine says that there are no more tokens (EndOfTokens), the emitter answers where the text really ended (a
// TextVerdict, which it gives at once where a stop string appears), the engine cuts the session there, frees
// it and posts the end.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/base/clock.h"
#include "runtime/base/inbox.h"
#include "runtime/text/text_stream.h"
#include "runtime/tokenizer.h"
#include "scheduler/core.h"
#include "scheduler/request.h"

namespace sessa {

// The emitter's side of a turn. Made by Submit, then emitter-thread only; dies with its terminal event.
class TurnStream {
 public:
  // The tokenizer may be null; it outlives the stream.
  TurnStream(uint64_t turn_id, std::shared_ptr<const TurnRequest> request, absl::Time submitted,
             const Tokenizer* tokenizer);

  const TurnRequest& request() const { return *request_; }
  // A turn whose end depends on its text.
  bool has_stop_strings() const { return !request_->stop.empty(); }

 private:
  friend class Emitter;
  struct SampleState {
    TextStream text;
    int32_t tokens = 0;  // given to the sink
    int64_t next_position = 0;
    DeltaEvent pending;  // tokens of this round that the sink has not got yet
    std::string stop_matched;
    bool cut = false;  // a stop string was found: further tokens are discarded
    absl::Time last_token = absl::InfinitePast();
  };

  const uint64_t turn_id_;
  const std::shared_ptr<const TurnRequest> request_;
  const absl::Time submitted_;
  bool started_ = false;
  absl::Time first_token_ = absl::InfiniteFuture();
  FinishReason reason_ = FinishReason::kStop;  // of sample 0
  std::vector<SampleState> samples_;
};

// What the engine posts. `stream` lives until its TurnEnd was handled.
struct TokenOutput {
  int32_t sample;
  int64_t position;  // in the session
  OutputResult result;
};
struct EndOfTokens {
  int32_t sample;
};
struct TurnEnd {
  std::shared_ptr<TurnStream> stream;
  absl::Status status;
  FinishedEvent finished;  // valid when status is OK
};
struct Call {  // runs after everything posted before it; belongs to no turn
  std::function<void()> run;
};
struct EmitterEvent {
  TurnStream* stream = nullptr;
  std::variant<TokenOutput, EndOfTokens, ProgressEvent, std::unique_ptr<StartedEvent>,
               std::unique_ptr<PromptLogprobsEvent>, std::unique_ptr<SampleFinishedEvent>,
               std::unique_ptr<TurnEnd>, std::unique_ptr<Call>>
      what;
};
// One step's worth.
struct EmitterBatch {
  absl::Time time;  // when the tokens were there
  std::vector<EmitterEvent> events;
};

// Where the text of a sample ended.
struct TextVerdict {
  uint64_t turn_id = 0;
  int32_t sample = 0;
  bool matched = false;     // a stop string
  int32_t keep_tokens = 0;  // valid when matched: sampled tokens up to the one that completed it
};

class Emitter {
 public:
  // The hooks and the clock outlive the emitter.
  Emitter(const CoreHooks* hooks, const Clock* clock) : hooks_(hooks), clock_(clock) {}

  // Constant once the first event was posted. The callee must not block.
  void set_on_verdict(std::function<void(TextVerdict)> on_verdict) { on_verdict_ = std::move(on_verdict); }

  // Engine thread. Takes the events; leaves an empty vector.
  void Post(absl::Time time, std::vector<EmitterEvent>* events);

  // Emitter thread. Handles what is there; false: nothing was.
  bool RunOnce();
  // Runs until Stop and until everything posted before it was handled.
  void Run();
  void Stop();

  uint64_t generated_tokens() const {
    return generated_tokens_.load(std::memory_order_relaxed);
  }  // any thread

 private:
  void Handle(TurnStream& stream, TokenOutput& token, absl::Time time);
  void Handle(TurnStream& stream, const EndOfTokens& end);
  void Handle(TurnStream& stream, SampleFinishedEvent& event);
  void Handle(TurnEnd& end);
  static void FlushSample(TurnStream& stream, int32_t sample);
  void FlushTurn(TurnStream& stream);
  void FlushAll();

  const CoreHooks* const hooks_;
  const Clock* const clock_;
  std::function<void(TextVerdict)> on_verdict_;
  Inbox<EmitterBatch> inbox_;
  std::vector<EmitterBatch> batches_;                     // emitter thread
  std::vector<std::pair<TurnStream*, int32_t>> pending_;  // samples with a pending delta; emitter thread
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> generated_tokens_{0};
};

}  // namespace sessa
