#include "client/client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "client/check_strings.h"
#include "client/loopback.h"
#include "client/proto_time.h"
#include "client/rpc_errors.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "sessa/v1/admin.grpc.pb.h"
#include "sessa/v1/inference.grpc.pb.h"
#include "sessa/v1/sessions.grpc.pb.h"

namespace sessa {
namespace {

// gRPC 1.51 may take the first connection to a server that is there for a refused one (grpc/grpc 35064): so
// it tries again soon, and a call waits for that (ClientOptions::connect_time) before it fails.
constexpr int kReconnectMilliseconds = 100;

}  // namespace

void CallCanceller::Cancel() {
  std::lock_guard<std::mutex> lock(mu_);
  cancelled_ = true;
  if (context_ != nullptr) context_->TryCancel();
}

void CallCanceller::Enter(grpc::ClientContext* context) {
  std::lock_guard<std::mutex> lock(mu_);
  context_ = context;
  if (cancelled_) context_->TryCancel();
}

void CallCanceller::Leave() {
  std::lock_guard<std::mutex> lock(mu_);
  context_ = nullptr;
  cancelled_ = false;
}

struct Client::Stubs {
  explicit Stubs(const std::shared_ptr<grpc::Channel>& channel)
      : channel(channel), inference(channel), sessions(channel), admin(channel), health(channel) {}
  std::shared_ptr<grpc::Channel> channel;
  v1::Inference::Stub inference;
  v1::Sessions::Stub sessions;
  v1::Admin::Stub admin;
  grpc::health::v1::Health::Stub health;
};

class Client::Call {
 public:
  Call(const Client* client, const CallOptions& options)
      : stubs_(*client->stubs_), connect_time_(client->options_.connect_time), options_(options) {
    if (options.deadline != absl::InfiniteFuture())
      context_.set_deadline(absl::ToChronoTime(options.deadline));
    if (options.canceller != nullptr) options.canceller->Enter(&context_);
  }
  ~Call() {
    if (options_.canceller != nullptr) options_.canceller->Leave();
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  grpc::ClientContext* context() { return &context_; }

  // Waits for the connection, if there is none, for a moment.
  Stubs& Connected() {
    if (stubs_.channel->GetState(false) != GRPC_CHANNEL_READY) {
      const absl::Time now = absl::Now();
      stubs_.channel->WaitForConnected(
          absl::ToChronoTime(now + std::min(connect_time_, (options_.deadline - now) / 2)));
    }
    return stubs_;
  }

  // A unary call: `method` of `stub`, which is a member of Stubs.
  template <typename Response, typename Stub, typename Request>
  absl::StatusOr<Response> Unary(Stub Stubs::*stub,
                                 grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                              Response*),
                                 const Request& request) {
    absl::Status status = CheckStrings(request);
    if (!status.ok()) return status;
    Response response;
    status = FromGrpcStatus((Connected().*stub.*method)(&context_, request, &response));
    if (!status.ok()) return status;
    return response;
  }

  // A call with a stream of events, read to its end. The handler's first error ends the call and is returned.
  template <typename Event, typename Stub, typename Request, typename Handler>
  absl::Status Read(Stub Stubs::*stub,
                    std::unique_ptr<grpc::ClientReader<Event>> (Stub::*method)(grpc::ClientContext*,
                                                                               const Request&),
                    const Request& request, const Handler& on_event) {
    absl::Status handled = CheckStrings(request);
    if (!handled.ok()) return handled;
    const auto reader = (Connected().*stub.*method)(&context_, request);
    Event event;
    while (reader->Read(&event)) {
      if (handled.ok()) handled = on_event(event);
      if (!handled.ok()) context_.TryCancel();
    }
    const absl::Status end = FromGrpcStatus(reader->Finish());
    return handled.ok() ? end : handled;
  }

  // Reads a stream of events to its end and returns its `finished`.
  template <typename Finished, typename Stub, typename Method, typename Request, typename Handler>
  absl::StatusOr<Finished> ReadToFinished(Stub Stubs::*stub, Method method, const Request& request,
                                          const Handler& on_event) {
    Finished finished;
    bool has_finished = false;
    const absl::Status end = Read(stub, method, request, [&](const auto& event) {
      if (event.has_finished()) {
        finished = event.finished();
        has_finished = true;
      }
      on_event(event);
      return absl::OkStatus();
    });
    if (!end.ok()) return end;
    if (!has_finished) return absl::InternalError("the server ended the stream without `finished`");
    return finished;
  }

 private:
  Stubs& stubs_;
  const absl::Duration connect_time_;
  const CallOptions options_;
  grpc::ClientContext context_;
};

Client::Client(ClientOptions options) : options_(std::move(options)) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(options_.max_message_bytes));
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMilliseconds);
  if (IsLoopback(options_.server)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  stubs_ = std::make_unique<Stubs>(
      grpc::CreateCustomChannel(options_.server, grpc::InsecureChannelCredentials(), arguments));
}

Client::~Client() = default;

absl::StatusOr<v1::Finished> Client::Generate(const v1::GenerateRequest& request, const CallOptions& options,
                                              const GenerateHandler& on_event) {
  return Call(this, options)
      .ReadToFinished<v1::Finished>(&Stubs::inference, &v1::Inference::Stub::Generate, request, on_event);
}

absl::StatusOr<v1::Finished> Client::Attach(const v1::AttachRequest& request, const CallOptions& options,
                                            const GenerateHandler& on_event) {
  return Call(this, options)
      .ReadToFinished<v1::Finished>(&Stubs::inference, &v1::Inference::Stub::Attach, request, on_event);
}

absl::StatusOr<v1::ScoreFinished> Client::Score(const v1::ScoreRequest& request, const CallOptions& options,
                                                const ScoreHandler& on_event) {
  return Call(this, options)
      .ReadToFinished<v1::ScoreFinished>(&Stubs::inference, &v1::Inference::Stub::Score, request, on_event);
}

absl::Status Client::CancelTurn(const v1::CancelTurnRequest& request, const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::inference, &v1::Inference::Stub::CancelTurn, request).status();
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(const v1::TokenizeRequest& request,
                                                      const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::inference, &v1::Inference::Stub::Tokenize, request);
}

absl::StatusOr<v1::DetokenizeResponse> Client::Detokenize(const v1::DetokenizeRequest& request,
                                                          const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::inference, &v1::Inference::Stub::Detokenize, request);
}

absl::StatusOr<v1::Model> Client::GetModel(const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::inference, &v1::Inference::Stub::GetModel, v1::GetModelRequest());
}

absl::StatusOr<v1::Session> Client::CreateSession(const v1::CreateSessionRequest& request,
                                                  const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::sessions, &v1::Sessions::Stub::CreateSession, request);
}

absl::StatusOr<v1::Session> Client::GetSession(const v1::GetSessionRequest& request,
                                               const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::sessions, &v1::Sessions::Stub::GetSession, request);
}

absl::StatusOr<v1::ListSessionsResponse> Client::ListSessions(const v1::ListSessionsRequest& request,
                                                              const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::sessions, &v1::Sessions::Stub::ListSessions, request);
}

absl::StatusOr<v1::Session> Client::UpdateSession(const v1::UpdateSessionRequest& request,
                                                  const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::sessions, &v1::Sessions::Stub::UpdateSession, request);
}

absl::Status Client::DeleteSession(const v1::DeleteSessionRequest& request, const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::sessions, &v1::Sessions::Stub::DeleteSession, request).status();
}

absl::StatusOr<v1::Session> Client::ForkSession(const v1::ForkSessionRequest& request,
                                                const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::sessions, &v1::Sessions::Stub::ForkSession, request);
}

absl::StatusOr<v1::Session> Client::RewindSession(const v1::RewindSessionRequest& request,
                                                  const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::sessions, &v1::Sessions::Stub::RewindSession, request);
}

absl::Status Client::ExportSession(const v1::ExportSessionRequest& request, const CallOptions& options,
                                   const ChunkHandler& on_chunk) {
  return Call(this, options).Read(&Stubs::sessions, &v1::Sessions::Stub::ExportSession, request, on_chunk);
}

absl::StatusOr<v1::Session> Client::ImportSession(const CallOptions& options, const ImportSource& next) {
  Call call(this, options);
  v1::Session session;
  auto writer = call.Connected().sessions.ImportSession(call.context(), &session);
  absl::StatusOr<bool> more = true;
  while (true) {
    v1::ImportSessionRequest request;
    more = next(&request);
    if (more.ok() && *more) {
      if (absl::Status status = CheckStrings(request); !status.ok()) more = std::move(status);
    }
    if (!more.ok()) call.context()->TryCancel();
    if (!more.ok() || !*more || !writer->Write(request)) break;
  }
  writer->WritesDone();
  const absl::Status status = FromGrpcStatus(writer->Finish());
  if (!more.ok()) return more.status();
  if (!status.ok()) return status;
  return session;
}

absl::StatusOr<v1::ServerStatus> Client::GetStatus(const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::admin, &v1::Admin::Stub::GetStatus, v1::GetStatusRequest());
}

absl::Status Client::WatchStatus(absl::Duration interval, const CallOptions& options,
                                 const std::function<bool(const v1::ServerStatus&)>& on_status) {
  v1::WatchStatusRequest request;
  *request.mutable_interval() = ToProto(interval);
  bool wanted = true;
  const absl::Status end =
      Call(this, options)
          .Read(&Stubs::admin, &v1::Admin::Stub::WatchStatus, request, [&](const v1::ServerStatus& status) {
            wanted = on_status(status);
            return wanted ? absl::OkStatus() : absl::CancelledError();
          });
  return wanted ? end : absl::OkStatus();
}

absl::Status Client::Drain(const v1::DrainRequest& request, const CallOptions& options) {
  return Call(this, options).Unary(&Stubs::admin, &v1::Admin::Stub::Drain, request).status();
}

absl::StatusOr<bool> Client::CheckHealth(const std::string& service, const CallOptions& options) {
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  const auto response =
      Call(this, options).Unary(&Stubs::health, &grpc::health::v1::Health::Stub::Check, request);
  if (!response.ok()) return response.status();
  return response->status() == grpc::health::v1::HealthCheckResponse::SERVING;
}

}  // namespace sessa
