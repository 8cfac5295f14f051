// The stream of a Generate call: a turn's events, as they come, to one client.
#pragma once

#include <memory>
#include <string>

#include "scheduler/core.h"
#include "server/request_parser.h"
#include "server/stream_buffer.h"
#include "server/stream_writer.h"

namespace sessa {

// What streams need of the server; outlives them.
struct StreamContext {
  Core* core = nullptr;
  TurnRegistry* registry = nullptr;
  Metrics* metrics = nullptr;
  const Tokenizer* tokenizer = nullptr;  // may be null
  absl::Duration slow_reader_timeout;
  const RequestLimits* limits = nullptr;
};

inline absl::Status RequestIdInUse(const std::string& request_id) {
  return MakeError(
      absl::StatusCode::kAlreadyExists, "a call with this request_id is running",
      {.reason = "REQUEST_ID_IN_USE", .field = "request_id", .resource = "request/" + request_id});
}

class GenerateStream final : public StreamWriter<v1::GenerateResponse, StreamBuffer>, public TokenSink {
 public:
  // Submits the turn and returns its reactor; a turn that is refused has one that ends with the error.
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Start(const StreamContext& server,
                                                               grpc::CallbackServerContext* context,
                                                               std::unique_ptr<TurnRequest> turn);

  void OnStarted(StartedEvent event) override;
  void OnProgress(ProgressEvent event) override;
  void OnPromptLogprobs(PromptLogprobsEvent event) override;
  void OnDelta(DeltaEvent event) override;
  void OnSampleFinished(SampleFinishedEvent event) override;
  void OnFinished(FinishedEvent event) override;
  void OnError(absl::Status status) override;

 private:
  GenerateStream(const StreamContext& server, grpc::CallbackServerContext* context, const TurnRequest& turn);
  void CancelTurn(absl::Status error) override;
  void PauseTurn(bool paused) override;
  void OnFinishing() override;
  void OnClosed() override;

  const StreamContext server_;
  const Principal principal_;
  const std::string request_id_;
};

// A stream that ends with an error at once.
template <class Response>
class RefusedStream final : public grpc::ServerWriteReactor<Response> {
 public:
  explicit RefusedStream(const absl::Status& status) { this->Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace sessa
