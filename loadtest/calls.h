// The calls of a worker, as state machines over its completion queue. Worker-thread only.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/support/async_stream.h>
#include <grpcpp/support/async_unary_call.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "loadtest/recorder.h"
#include "sessa/v1/inference.grpc.pb.h"
#include "sessa/v1/sessions.grpc.pb.h"

namespace sessa {

// The stubs of a connection. Thread-safe.
struct Connection {
  std::unique_ptr<v1::Inference::Stub> inference;
  std::unique_ptr<v1::Sessions::Stub> sessions;
};

// A session of one user (or arrival), from its first turn to its last.
struct LoadSession {
  Connection* connection = nullptr;
  std::string id;  // empty before the first turn
  int64_t turns_left = 0;
};

// What the completion queue hands back.
class Tag {
 public:
  virtual ~Tag() = default;
  virtual void OnEvent(bool ok) = 0;
};

// What calls use of their worker, which outlives them.
struct CallHost {
  grpc::CompletionQueue* queue = nullptr;
  Recorder* recorder = nullptr;
  absl::Time start;  // of the run
};

// One Generate call.
class TurnCall : public Tag {
 public:
  // How it ended. `back_off`: how long the user waits before trying again; zero unless it failed.
  struct Outcome {
    bool cancelled = false;
    absl::Duration back_off;
  };
  // Called once, last; may delete the call.
  using Done = std::function<void(TurnCall* call, const Outcome& outcome)>;

  // `cancel_after`: tokens after which the call is cancelled; -1: never.
  TurnCall(const CallHost& host, std::shared_ptr<LoadSession> session, int64_t cancel_after, Done done);

  // `scheduled`: when the turn should have begun; `timeout`: its deadline from now, or infinite.
  void Begin(const v1::GenerateRequest& request, absl::Time scheduled, absl::Duration timeout);
  void OnEvent(bool ok) override;
  void Cancel() { context_.TryCancel(); }
  const std::shared_ptr<LoadSession>& session() const { return session_; }

 private:
  enum class Phase { kStarting, kReading, kFinishing };

  absl::Duration SinceStart() const;
  void OnResponse();
  void OnTokens(int count);
  void End();

  const CallHost host_;
  const std::shared_ptr<LoadSession> session_;
  const int64_t cancel_after_;
  Done done_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader_;
  v1::GenerateResponse response_;
  grpc::Status status_;
  Phase phase_ = Phase::kStarting;
  absl::Duration start_;       // when it should have begun, since the start of the run
  absl::Duration last_token_;  // since the start of the run
  int prompt_tokens_ = 0;
  int64_t tokens_ = 0;
  bool finished_ = false;  // the `finished` event came
  v1::FinishReason finish_reason_ = v1::FINISH_REASON_UNSPECIFIED;
};

// Forgets a kept session that the scenario is done with; whether that works is not recorded.
class DeleteCall : public Tag {
 public:
  // `done` is called once, last; may delete the call.
  DeleteCall(const CallHost& host, const LoadSession& session, std::function<void(DeleteCall*)> done);
  void OnEvent(bool) override { std::exchange(done_, nullptr)(this); }

 private:
  std::function<void(DeleteCall*)> done_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::DeleteSessionResponse>> reader_;
  v1::DeleteSessionResponse response_;
  grpc::Status status_;
};

}  // namespace sessa
