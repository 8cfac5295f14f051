// The stream of a Score call: one turn a choice, one after the other. Each begins after the tokens of the
// session that the call names, if any, and leaves nothing behind.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "server/generate_stream.h"
#include "server/message_queue.h"
#include "server/request_parser.h"
#include "server/stream_writer.h"

namespace sessa {

// Tokenises the contents, then submits the first turn; each turn's end submits the next. So everything below
// "state of the run" is touched by one thread at a time, in an order that the core's queues establish.
class ScoreStream final : public StreamWriter<v1::ScoreResponse, MessageQueue<v1::ScoreResponse>>,
                          public TokenSink,
                          public std::enable_shared_from_this<ScoreStream> {
 public:
  static grpc::ServerWriteReactor<v1::ScoreResponse>* Start(const StreamContext& server,
                                                            grpc::CallbackServerContext* context,
                                                            ScorePlan plan);

  void OnStarted(StartedEvent event) override;
  void OnProgress(ProgressEvent event) override;
  void OnPromptLogprobs(PromptLogprobsEvent event) override;
  void OnDelta(DeltaEvent) override {}                    // max_tokens is 0
  void OnSampleFinished(SampleFinishedEvent) override {}  // the same
  void OnFinished(FinishedEvent event) override;
  void OnError(absl::Status status) override;

 private:
  using Buffer = MessageQueue<v1::ScoreResponse>;

  ScoreStream(const StreamContext& server, grpc::CallbackServerContext* context, ScorePlan plan);
  void CancelTurn(absl::Status error) override;
  void PauseTurn(bool paused) override;
  void OnFinishing() override;
  void OnClosed() override;

  void TokenizeNext();
  void SubmitNext();
  void Sum(const FinishedEvent& event);
  void EndCancelled();

  const StreamContext server_;
  const ScorePlan plan_;
  std::atomic<bool> stopped_{false};  // no further turn is to be submitted

  // State of the run.
  std::vector<std::vector<int32_t>> ids_;  // of the prompt, then of each choice, as far as they are tokenised
  size_t choice_ = 0;
  int64_t scored_from_ = 0;  // position of the choice's first token
  v1::ChoiceScore score_;    // of the choice
  double best_logprob_ = 0;
  v1::ScoreFinished finished_;
  absl::Duration queue_time_, prefill_time_, decode_time_;
};

}  // namespace sessa
