#include "server/generate_stream.h"

#include <utility>

namespace sessa {

using Reactor = grpc::ServerWriteReactor<v1::GenerateResponse>;

GenerateStream::GenerateStream(const StreamContext& server, grpc::CallbackServerContext* context,
                               const TurnRequest& turn)
    : StreamWriter(context, server.metrics, server.slow_reader_timeout, StreamBuffer(server.tokenizer)),
      server_(server),
      principal_(turn.principal),
      request_id_(turn.request_id) {}

Reactor* GenerateStream::Start(const StreamContext& server, grpc::CallbackServerContext* context,
                               std::unique_ptr<TurnRequest> turn) {
  const std::shared_ptr<GenerateStream> stream(new GenerateStream(server, context, *turn));
  if (!server.registry->Add(turn->principal, turn->request_id, stream)) {
    server.metrics->OnRefused(absl::StatusCode::kAlreadyExists);
    server.metrics->OnStreams(-1);
    return new RefusedStream<v1::GenerateResponse>(RequestIdInUse(turn->request_id));
  }
  stream->Own(stream);
  turn->sink = stream;
  if (absl::Status status = server.core->Submit(std::move(turn)); !status.ok()) {
    server.metrics->OnRefused(status.code());
    stream->End(std::move(status));
  } else {
    stream->RepeatEarlyCancel();
  }
  return stream.get();
}

void GenerateStream::OnStarted(StartedEvent event) {
  server_.metrics->OnRestore(event.restore);
  Push([&](StreamBuffer& buffer) {
    context()->AddInitialMetadata("sessa-session-id", event.session_id);
    buffer.Push(event);
  });
}

void GenerateStream::OnProgress(ProgressEvent event) {
  Push([&](StreamBuffer& buffer) { buffer.Push(event); });
}

void GenerateStream::OnPromptLogprobs(PromptLogprobsEvent event) {
  Push([&](StreamBuffer& buffer) { buffer.Push(event); });
}

void GenerateStream::OnDelta(DeltaEvent event) {
  Push([&](StreamBuffer& buffer) { buffer.Push(std::move(event)); });
}

void GenerateStream::OnSampleFinished(SampleFinishedEvent event) {
  Push([&](StreamBuffer& buffer) { buffer.Push(event); });
}

void GenerateStream::OnFinished(FinishedEvent event) {
  PushLast([&](StreamBuffer& buffer) { buffer.Push(event); });
}

void GenerateStream::OnError(absl::Status status) { End(std::move(status)); }

void GenerateStream::CancelTurn(absl::Status error) {
  server_.core->Cancel(principal_, request_id_, std::move(error));
}

void GenerateStream::PauseTurn(bool paused) { server_.core->SetPaused(principal_, request_id_, paused); }

void GenerateStream::OnFinishing() { server_.registry->Release(principal_, request_id_, this); }

void GenerateStream::OnClosed() { server_.registry->Remove(principal_, request_id_, this); }

}  // namespace sessa
