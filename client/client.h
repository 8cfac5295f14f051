// A connection to sessad: the calls of sessa.v1, blocking, with errors as absl::Status (client/rpc_errors.h).
//
//   Client client({.server = "127.0.0.1:50051"});
//   v1::GenerateRequest request;
//   request.set_text("Q: Where is Mia?\nA:");
//   absl::StatusOr<v1::Finished> end = client.Generate(request, {}, [](const v1::GenerateResponse& event) {
//     if (event.has_delta()) std::cout << event.delta().text();
//   });
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "sessa/v1/admin.pb.h"
#include "sessa/v1/inference.pb.h"
#include "sessa/v1/sessions.pb.h"

namespace grpc {
class ClientContext;
}

namespace sessa {

struct ClientOptions {
  std::string server = "127.0.0.1:50051";  // HOST:PORT
  int64_t max_message_bytes = 64 << 20;    // of one received message
  // How long a call waits for the connection, if there is none, before it fails; never more than half of the
  // time that it has, so that what is wrong with the server is told and not only that time is over.
  absl::Duration connect_time = absl::Milliseconds(300);
};

// Cancels a call from another thread. One call at a time; may be reused for the next one. Thread-safe.
class CallCanceller {
 public:
  void Cancel();  // the call now in progress, or the next one when there is none

 private:
  friend class Client;
  void Enter(grpc::ClientContext* context);
  void Leave();

  std::mutex mu_;
  grpc::ClientContext* context_ = nullptr;  // guarded by mu_; the caller's
  bool cancelled_ = false;                  // guarded by mu_
};

struct CallOptions {
  absl::Time deadline = absl::InfiniteFuture();
  CallCanceller* canceller = nullptr;  // may be null; outlives the call
};

// Thread-safe: several calls may run at once, on one connection. A request with a text that is not UTF-8 is
// not sent: INVALID_ARGUMENT names the field.
class Client {
 public:
  explicit Client(ClientOptions options);
  ~Client();

  const std::string& server() const { return options_.server; }

  // The stream's events in order, on the calling thread, `finished` among them. Returns it, or the error that
  // ended the stream. INTERNAL for a stream that breaks the protocol (OK without `finished`).
  using GenerateHandler = std::function<void(const v1::GenerateResponse&)>;
  absl::StatusOr<v1::Finished> Generate(const v1::GenerateRequest& request, const CallOptions& options,
                                        const GenerateHandler& on_event);
  absl::StatusOr<v1::Finished> Attach(const v1::AttachRequest& request, const CallOptions& options,
                                      const GenerateHandler& on_event);
  using ScoreHandler = std::function<void(const v1::ScoreResponse&)>;
  absl::StatusOr<v1::ScoreFinished> Score(const v1::ScoreRequest& request, const CallOptions& options,
                                          const ScoreHandler& on_event);
  absl::Status CancelTurn(const v1::CancelTurnRequest& request, const CallOptions& options = {});
  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request,
                                                const CallOptions& options = {});
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                    const CallOptions& options = {});
  absl::StatusOr<v1::Model> GetModel(const CallOptions& options = {});

  absl::StatusOr<v1::Session> CreateSession(const v1::CreateSessionRequest& request,
                                            const CallOptions& options = {});
  absl::StatusOr<v1::Session> GetSession(const v1::GetSessionRequest& request,
                                         const CallOptions& options = {});
  absl::StatusOr<v1::ListSessionsResponse> ListSessions(const v1::ListSessionsRequest& request,
                                                        const CallOptions& options = {});
  absl::StatusOr<v1::Session> UpdateSession(const v1::UpdateSessionRequest& request,
                                            const CallOptions& options = {});
  absl::Status DeleteSession(const v1::DeleteSessionRequest& request, const CallOptions& options = {});
  absl::StatusOr<v1::Session> ForkSession(const v1::ForkSessionRequest& request,
                                          const CallOptions& options = {});
  absl::StatusOr<v1::Session> RewindSession(const v1::RewindSessionRequest& request,
                                            const CallOptions& options = {});
  // Chunks in order. A handler's error ends the export and is returned.
  using ChunkHandler = std::function<absl::Status(const v1::SessionChunk&)>;
  absl::Status ExportSession(const v1::ExportSessionRequest& request, const CallOptions& options,
                             const ChunkHandler& on_chunk);
  // `next` fills a request and returns true, or false at the end; its error cancels the import and is
  // returned.
  using ImportSource = std::function<absl::StatusOr<bool>(v1::ImportSessionRequest*)>;
  absl::StatusOr<v1::Session> ImportSession(const CallOptions& options, const ImportSource& next);

  absl::StatusOr<v1::ServerStatus> GetStatus(const CallOptions& options = {});
  // Until the handler returns false (then OK) or the stream ends.
  absl::Status WatchStatus(absl::Duration interval, const CallOptions& options,
                           const std::function<bool(const v1::ServerStatus&)>& on_status);
  absl::Status Drain(const v1::DrainRequest& request, const CallOptions& options = {});
  // grpc.health.v1: true when SERVING. `service` empty: the whole server.
  absl::StatusOr<bool> CheckHealth(const std::string& service, const CallOptions& options = {});

 private:
  struct Stubs;
  class Call;  // a ClientContext, entered into its canceller

  ClientOptions options_;
  std::unique_ptr<Stubs> stubs_;  // constant after construction
};

}  // namespace sessa
