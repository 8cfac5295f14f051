// The stream of a Score call: one turn a choice, one after the other. Each begins after the tokens that the
// session which the call names, if any, has at the beginning of the call, and leaves nothing behind. A turn
// that ends early ends the call with an error.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "server/generate_stream.h"
#include "server/message_queue.h"
#include "server/request_parser.h"
#include "server/stream_writer.h"
#include "server/text_budget.h"

namespace sessa {

// Tokenises the contents, looks the session's length up, then submits the first turn; each turn's end submits
// the next. So everything below "state of the run" is touched by one thread at a time, in an order that the
// core's queues establish.
class ScoreStream final : public StreamWriter<v1::ScoreResponse, MessageQueue<v1::ScoreResponse>>,
                          public TokenSink,
                          public std::enable_shared_from_this<ScoreStream> {
 public:
  static grpc::ServerWriteReactor<v1::ScoreResponse>* Start(const StreamContext& server,
                                                            grpc::CallbackServerContext* context,
                                                            ScorePlan plan,
                                                            std::unique_ptr<TextBudget::Share> share);

  void OnStarted(StartedEvent event) override;
  void OnProgress(ProgressEvent event) override;
  void OnPromptLogprobs(PromptLogprobsEvent event) override;
  void OnDelta(DeltaEvent) override {}  // max_tokens is 0
  void OnSampleFinished(SampleFinishedEvent event) override { reason_ = event.reason; }
  void OnFinished(FinishedEvent event) override;
  void OnError(absl::Status status) override;

 private:
  using Buffer = MessageQueue<v1::ScoreResponse>;

  ScoreStream(const StreamContext& server, grpc::CallbackServerContext* context, ScorePlan plan,
              std::unique_ptr<TextBudget::Share> share);
  void CancelTurn(absl::Status error) override;
  void PauseTurn(bool paused) override;
  void OnFinishing() override;
  void OnClosed() override;

  void TokenizeNext();
  void FindSession();
  void Begin(int64_t position);
  absl::Status CheckLengths() const;
  void SubmitNext();
  void Sum(const FinishedEvent& event);
  void Refuse(absl::Status status);  // before any turn
  void EndCancelled();

  const StreamContext server_;
  const ScorePlan plan_;
  Mutex hold_mutex_;                                // within the writer's lock, or alone
  std::atomic<bool> stopped_{false};                // no further turn is to be submitted; set under the lock
  bool held_ ABSL_GUARDED_BY(hold_mutex_) = false;  // the reader is behind: turns begin paused

  // State of the run.
  std::unique_ptr<TextBudget::Share> share_;  // until everything is tokenised
  std::vector<std::vector<int32_t>> ids_;  // of the prompt, then of each choice, as far as they are tokenised
  int64_t start_ = 0;                      // position of the prompt's first token
  size_t choice_ = 0;
  int64_t scored_from_ = 0;                      // position of the choice's first token
  FinishReason reason_ = FinishReason::kLength;  // of the choice's turn
  v1::ChoiceScore score_;                        // of the choice
  double best_logprob_ = 0;
  v1::ScoreFinished finished_;
  absl::Duration queue_time_, prefill_time_, decode_time_;
};

}  // namespace sessa
