#include "server/admin_service.h"

#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "runtime/base/errors.h"
#include "server/call.h"
#include "server/error_details.h"
#include "server/generate_stream.h"
#include "server/request_parser.h"

namespace sessa {
namespace {

constexpr absl::Duration kLeastInterval = absl::Milliseconds(100);
constexpr absl::Duration kMostInterval = absl::Hours(1);

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

absl::Status ShuttingDown() {
  return MakeError(absl::StatusCode::kUnavailable, "the server is shutting down",
                   {.reason = "SHUTTING_DOWN", .retry_after = absl::Seconds(1)});
}

}  // namespace

// One WatchStatus call. A status that is due while the one before is still being written is left out.
class StatusStream final : public grpc::ServerWriteReactor<v1::ServerStatus>,
                           public std::enable_shared_from_this<StatusStream> {
 public:
  StatusStream(AdminService* service, absl::Duration interval)
      : service_(service), interval_(interval), mark_(service->status_->Now()) {}

  void Tick(absl::Time now) {
    {
      MutexLock lock(&mutex_);
      if (finishing_ || writing_ || now < due_) return;
      writing_ = true;
      message_ = first_ ? service_->status_->Latest() : service_->status_->Since(mark_);
      mark_ = service_->status_->Now();
      first_ = false;
      // Keep to the grid, but do not make up for what was missed.
      due_ = now - due_ > interval_ ? now + interval_ : due_ + interval_;
    }
    StartWrite(&message_);
  }

  void Close(const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      closing_ = status;
      if (finishing_ || writing_) return;
      finishing_ = true;
    }
    Finish(ToGrpcStatus(status));
  }

 private:
  void OnWriteDone(bool ok) override {
    absl::Status closing;
    {
      MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok && closing_.ok()) closing_ = absl::CancelledError("the client is gone");
      closing = closing_;
    }
    if (!closing.ok()) Close(closing);
  }
  void OnCancel() override { Close(absl::CancelledError("the client cancelled the call")); }
  void OnDone() override { service_->Remove(shared_from_this()); }  // the set's reference was the last

  AdminService* const service_;
  const absl::Duration interval_;
  Mutex mutex_;
  StatusSource::Mark mark_ ABSL_GUARDED_BY(mutex_);
  absl::Time due_ ABSL_GUARDED_BY(mutex_) = absl::Now();
  bool first_ ABSL_GUARDED_BY(mutex_) = true;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status closing_ ABSL_GUARDED_BY(mutex_);
  v1::ServerStatus message_;  // unchanged while writing_
};

AdminService::AdminService(const StatusSource* status, DrainFn drain, absl::Duration drain_timeout)
    : status_(status), drain_(std::move(drain)), drain_timeout_(drain_timeout) {}

AdminService::~AdminService() = default;

grpc::ServerUnaryReactor* AdminService::GetStatus(grpc::CallbackServerContext* context,
                                                  const v1::GetStatusRequest*, v1::ServerStatus* response) {
  *response = status_->Latest();
  return FinishUnary(context, absl::OkStatus());
}

grpc::ServerWriteReactor<v1::ServerStatus>* AdminService::WatchStatus(grpc::CallbackServerContext*,
                                                                      const v1::WatchStatusRequest* request) {
  absl::Duration interval = FromProto(request->interval());
  if (interval == absl::ZeroDuration()) interval = absl::Seconds(1);
  if (interval < kLeastInterval || interval > kMostInterval) {
    return new RefusedStream<v1::ServerStatus>(InvalidField("interval", "must lie between 0.1 s and 1 h"));
  }
  const auto stream = std::make_shared<StatusStream>(this, interval);
  {
    MutexLock lock(&mutex_);
    if (closed_) return new RefusedStream<v1::ServerStatus>(ShuttingDown());
    streams_.insert(stream);
  }
  stream->Tick(absl::Now());
  return stream.get();
}

grpc::ServerUnaryReactor* AdminService::Drain(grpc::CallbackServerContext* context,
                                              const v1::DrainRequest* request, v1::DrainResponse*) {
  if (auto status = CheckRequestId("request_id", request->request_id()); !status.ok()) {
    return FinishUnary(context, status);
  }
  const absl::Duration timeout = request->has_timeout() ? FromProto(request->timeout()) : drain_timeout_;
  if (timeout < absl::ZeroDuration()) {
    return FinishUnary(context, InvalidField("timeout", "must not be negative"));
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  drain_(timeout, [reactor] { FinishUnary(reactor, absl::OkStatus()); });
  return reactor;
}

void AdminService::Tick(absl::Time now) {
  std::vector<std::shared_ptr<StatusStream>> streams;
  {
    MutexLock lock(&mutex_);
    streams.assign(streams_.begin(), streams_.end());
  }
  for (const auto& stream : streams) stream->Tick(now);
}

void AdminService::CloseStreams() {
  std::vector<std::shared_ptr<StatusStream>> streams;
  {
    MutexLock lock(&mutex_);
    closed_ = true;
    streams.assign(streams_.begin(), streams_.end());
  }
  for (const auto& stream : streams) stream->Close(ShuttingDown());
}

void AdminService::Remove(const std::shared_ptr<StatusStream>& stream) {
  MutexLock lock(&mutex_);
  streams_.erase(stream);
}

}  // namespace sessa
