#include "loadtest/calls.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "client/rpc_errors.h"
#include "client/text.h"
#include "runtime/base/errors.h"

namespace sessa {
namespace {

// A user whose turn was refused tries again after the server's RetryInfo, within these bounds.
constexpr absl::Duration kMinBackOff = absl::Milliseconds(20), kMaxBackOff = absl::Seconds(5);
constexpr absl::Duration kDeleteTimeout = absl::Seconds(10);

// The turn came to its own end; OK with another reason is a turn that was broken off in order.
bool EndsByItself(v1::FinishReason reason) {
  return reason == v1::FINISH_REASON_STOP || reason == v1::FINISH_REASON_EOS ||
         reason == v1::FINISH_REASON_LENGTH || reason == v1::FINISH_REASON_CONTEXT_FULL;
}

std::string OutcomeName(const absl::Status& status) {
  const std::string code = absl::StatusCodeToString(status.code());
  const std::string reason = GetErrorDetail(status).reason;
  return reason.empty() ? code : absl::StrCat(code, "/", reason);
}

}  // namespace

TurnCall::TurnCall(const CallHost& host, std::shared_ptr<LoadSession> session, int64_t cancel_after,
                   Done done)
    : host_(host), session_(std::move(session)), cancel_after_(cancel_after), done_(std::move(done)) {}

void TurnCall::Begin(const v1::GenerateRequest& request, absl::Time scheduled, absl::Duration timeout) {
  start_ = scheduled - host_.start;
  host_.recorder->OnStart(start_, SinceStart());
  if (timeout != absl::InfiniteDuration()) context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  reader_ = session_->connection->inference->PrepareAsyncGenerate(&context_, request, host_.queue);
  reader_->StartCall(this);
}

void TurnCall::OnEvent(bool ok) {
  if (phase_ == Phase::kFinishing) return End();
  if (phase_ == Phase::kReading && ok) OnResponse();
  if (ok) {
    phase_ = Phase::kReading;
    reader_->Read(&response_, this);
  } else {
    phase_ = Phase::kFinishing;
    reader_->Finish(&status_, this);
  }
}

absl::Duration TurnCall::SinceStart() const { return absl::Now() - host_.start; }

void TurnCall::OnResponse() {
  if (response_.has_started()) {
    session_->id = response_.started().session_id();
    prompt_tokens_ = response_.started().prompt_tokens();
  } else if (response_.has_delta() && response_.delta().token_ids_size() > 0) {
    OnTokens(response_.delta().token_ids_size());
  } else if (response_.has_sample_finished()) {
    finish_reason_ = response_.sample_finished().reason();
  } else if (response_.has_finished()) {
    const v1::Usage& usage = response_.finished().usage();
    finished_ = true;
    if (tokens_ == 0) host_.recorder->OnPromptDone(SinceStart(), prompt_tokens_);
    host_.recorder->OnUsage(start_, usage.cached_tokens(), usage.recomputed_tokens());
  }
  if (cancel_after_ >= 0 && tokens_ >= cancel_after_) Cancel();
}

void TurnCall::OnTokens(int count) {
  const absl::Duration now = SinceStart();
  if (tokens_ == 0) {
    host_.recorder->OnPromptDone(now, prompt_tokens_);
    host_.recorder->OnFirstToken(start_, now);
  }
  host_.recorder->OnTokens(start_, now, tokens_ == 0 ? absl::ZeroDuration() : now - last_token_, count);
  last_token_ = now;
  tokens_ += count;
}

void TurnCall::End() {
  const absl::Status status = FromGrpcStatus(status_);
  const bool cancelled = cancel_after_ >= 0 && status.code() == absl::StatusCode::kCancelled;
  const bool broken = status.ok() && !finished_;  // the server must send `finished` before OK
  const bool cut_off = status.ok() && finished_ && !EndsByItself(finish_reason_);
  const bool failed = !cancelled && (broken || cut_off || !status.ok());
  const std::string reason = v1::FinishReason_Name(finish_reason_);
  const std::string name = cancelled ? "cancelled by the scenario"
                           : broken  ? "OK without finished"
                           : cut_off ? absl::StrCat("OK/", absl::StripPrefix(reason, "FINISH_REASON_"))
                                     : OutcomeName(status);
  const bool has_reason = finish_reason_ != v1::FINISH_REASON_UNSPECIFIED;
  host_.recorder->OnEnd(start_, SinceStart(), name, failed, has_reason ? reason : "");
  Outcome outcome{.cancelled = cancelled};
  if (failed) {
    const absl::Duration wanted = GetErrorDetail(status).retry_after.value_or(kMinBackOff);
    outcome.back_off = std::clamp(wanted, kMinBackOff, kMaxBackOff);
  }
  std::exchange(done_, nullptr)(this, outcome);  // it may delete this
}

DeleteCall::DeleteCall(const CallHost& host, const LoadSession& session,
                       std::function<void(DeleteCall*)> done)
    : done_(std::move(done)) {
  v1::DeleteSessionRequest request;
  request.set_session_id(session.id);
  request.set_request_id(RandomId());
  context_.set_deadline(absl::ToChronoTime(absl::Now() + kDeleteTimeout));
  reader_ = session.connection->sessions->AsyncDeleteSession(&context_, request, host.queue);
  reader_->Finish(&response_, &status_, this);
}

}  // namespace sessa
