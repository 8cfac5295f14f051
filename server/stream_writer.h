// The write side of a streaming call: messages go to the client one at a time, the rest waits in a buffer,
// and a client that does not read is held up, then ended.
//
// Life: the handler makes the stream and returns it to gRPC; the emitter pushes events; gRPC calls
// OnWriteDone after each write, OnCancel when the client is gone, OnDone last. The stream owns itself until
// OnDone; the core may hold it (as a TokenSink) for longer, and what it still pushes is dropped.
#pragma once

#include <grpc/grpc.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/base/errors.h"
#include "runtime/base/mutex.h"
#include "server/error_details.h"
#include "server/metrics.h"
#include "server/turn_registry.h"

namespace sessa {

// Above the first the turn gets no more steps, below the second it goes on.
inline constexpr int64_t kPauseAboveBytes = 16 << 10;
inline constexpr int64_t kResumeBelowBytes = 4 << 10;

inline absl::Status SlowReaderError(absl::Duration timeout) {
  return MakeError(
      absl::StatusCode::kAborted,
      "the client took nothing from the stream for " + absl::FormatDuration(timeout) +
          "; a kept session holds what it had, so the turn can be continued with an empty prompt",
      {.reason = "SLOW_READER", .retry_after = absl::Seconds(1)});
}

// Buffer: empty(), messages(), bytes(), Pop(), Recycle(message), Clear(), as StreamBuffer has them.
template <class Response, class Buffer>
class StreamWriter : public grpc::ServerWriteReactor<Response>, public LiveTurn {
 public:
  void CheckReader(absl::Time now) final;
  void CancelByRequest() final;

 protected:
  StreamWriter(grpc::CallbackServerContext* context, Metrics* metrics, absl::Duration slow_reader_timeout,
               Buffer buffer)
      : context_(context),
        metrics_(metrics),
        slow_reader_timeout_(slow_reader_timeout),
        buffer_(std::move(buffer)) {
    metrics_->OnStreams(+1);
  }

  // Keeps the stream alive until OnDone. Before anything else.
  void Own(std::shared_ptr<StreamWriter> self) { self_ = std::move(self); }

  // Calls fill(Buffer&) and sends what can be sent. Dropped once the call is ending.
  template <class Fill>
  void Push(Fill&& fill) {
    {
      MutexLock lock(&mutex_);
      if (finishing_ || ended_) return;
      fill(buffer_);
      if (!paused_ && buffer_.bytes() > kPauseAboveBytes) SetPaused(true);
    }
    Advance();
  }
  // The same for the last message: the call then ends with OK.
  template <class Fill>
  void PushLast(Fill&& fill) {
    {
      MutexLock lock(&mutex_);
      if (finishing_ || ended_) return;
      fill(buffer_);
      ended_ = absl::OkStatus();
    }
    Advance();
  }
  // The call ends with this status once everything is sent. The first one counts.
  void End(absl::Status status) {
    {
      MutexLock lock(&mutex_);
      if (!ended_) ended_ = std::move(status);
    }
    Advance();
  }
  // To be called once the core has the turn, if a client could name it before: a wish to end it that came
  // before that found no turn.
  void RepeatEarlyCancel();
  // For fill functions of the first message.
  grpc::CallbackServerContext* context() { return context_; }

  // Tells the core to end the turn: OK for a client's wish. Any thread, maybe more than once.
  virtual void CancelTurn(absl::Status error) = 0;
  // Tells the core to give the turn no steps, or steps again. Called under the stream's lock, so in order.
  virtual void PauseTurn(bool paused) = 0;
  // The status is about to be sent: the turn is over, though the client may not have read its end.
  virtual void OnFinishing() = 0;
  // The call is over: nothing of gRPC may be touched any more.
  virtual void OnClosed() = 0;

 private:
  void OnWriteDone(bool ok) final;
  void OnCancel() final;
  void OnDone() final;

  void SetPaused(bool paused) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    paused_ = paused;
    PauseTurn(paused);
  }
  void Advance();

  grpc::CallbackServerContext* const context_;  // valid until OnDone
  Metrics* const metrics_;
  const absl::Duration slow_reader_timeout_;
  std::shared_ptr<StreamWriter> self_;

  Mutex mutex_;
  Buffer buffer_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Response> in_flight_ ABSL_GUARDED_BY(mutex_);  // alive until OnWriteDone
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t writes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<absl::Time> write_issued_
      ABSL_GUARDED_BY(mutex_);  // of the write in flight, once gRPC has it
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;             // the client is gone
  bool cancel_asked_ ABSL_GUARDED_BY(mutex_) = false;          // by a client, with CancelTurn
  std::optional<absl::Status> ended_ ABSL_GUARDED_BY(mutex_);  // how the turn ended
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;             // gRPC has been told the status
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time finish_issued_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // torn down if nobody reads it
};

template <class Response, class Buffer>
void StreamWriter<Response, Buffer>::Advance() {
  const Response* message = nullptr;
  std::optional<grpc::Status> status;
  uint64_t write = 0;
  {
    MutexLock lock(&mutex_);
    if (finishing_ || writing_) return;
    if (cancelled_) {
      buffer_.Clear();
      status = ToGrpcStatus(
          MakeError(absl::StatusCode::kCancelled, "the client cancelled the call", {.reason = "CANCELLED"}));
    } else {
      if (buffer_.empty() && !ended_) return;
      if (!buffer_.empty()) in_flight_ = buffer_.Pop();
      message = in_flight_.get();
      if (ended_ && buffer_.empty()) status = ended_->ok() ? grpc::Status::OK : ToGrpcStatus(*ended_);
      if (paused_ && buffer_.bytes() < kResumeBelowBytes) SetPaused(false);
    }
    finishing_ = status.has_value();
    if (finishing_) finish_issued_ = absl::Now();
    writing_ = message != nullptr;
    write = ++writes_;
  }
  if (status) OnFinishing();
  // Without the lock: gRPC may run reactions before these calls return.
  if (message != nullptr && status) {
    this->StartWriteAndFinish(message, grpc::WriteOptions(), *std::move(status));
  } else if (message != nullptr) {
    this->StartWrite(message);
    MutexLock lock(&mutex_);
    if (writing_ && writes_ == write) write_issued_ = absl::Now();
  } else {
    this->Finish(*std::move(status));
  }
}

template <class Response, class Buffer>
void StreamWriter<Response, Buffer>::OnWriteDone(bool ok) {
  bool gone = false;
  {
    MutexLock lock(&mutex_);
    writing_ = false;
    write_issued_.reset();
    buffer_.Recycle(std::move(in_flight_));
    in_flight_ = nullptr;
    gone = !ok && !cancelled_ && !finishing_;
    if (gone) cancelled_ = true;
  }
  if (gone) CancelTurn(absl::OkStatus());
  Advance();
}

template <class Response, class Buffer>
void StreamWriter<Response, Buffer>::OnCancel() {
  {
    MutexLock lock(&mutex_);
    if (finishing_) return;  // the turn is over, and its name may be another's by now
    cancelled_ = true;
  }
  CancelTurn(absl::OkStatus());
  Advance();
}

template <class Response, class Buffer>
void StreamWriter<Response, Buffer>::CancelByRequest() {
  {
    MutexLock lock(&mutex_);
    cancel_asked_ = true;
  }
  CancelTurn(absl::OkStatus());
}

template <class Response, class Buffer>
void StreamWriter<Response, Buffer>::RepeatEarlyCancel() {
  {
    MutexLock lock(&mutex_);
    if (!cancel_asked_ || finishing_) return;
  }
  CancelTurn(absl::OkStatus());
}

template <class Response, class Buffer>
void StreamWriter<Response, Buffer>::OnDone() {
  {
    MutexLock lock(&mutex_);
    done_ = true;
    buffer_.Clear();
  }
  metrics_->OnStreams(-1);
  OnClosed();
  const std::shared_ptr<StreamWriter> self = std::move(self_);  // the last line that touches the stream
}

template <class Response, class Buffer>
void StreamWriter<Response, Buffer>::CheckReader(absl::Time now) {
  {
    MutexLock lock(&mutex_);
    if (done_) return;
    if (finishing_) {
      // The status waits behind messages that nobody reads: the call is torn down.
      if (now - finish_issued_ < slow_reader_timeout_) return;
      finish_issued_ = absl::InfiniteFuture();
      const absl::Status error = SlowReaderError(slow_reader_timeout_);
      grpc_call_cancel_with_status(context_->c_call(), GRPC_STATUS_ABORTED,
                                   std::string(error.message()).c_str(), nullptr);
      return;
    }
    if (!write_issued_ || now - *write_issued_ < slow_reader_timeout_) return;
    finishing_ = true;
    finish_issued_ = now;
    buffer_.Clear();
  }
  metrics_->OnSlowReader();
  const absl::Status error = SlowReaderError(slow_reader_timeout_);
  CancelTurn(error);
  OnFinishing();
  this->Finish(ToGrpcStatus(error));
}

}  // namespace sessa
