#include "loadtest/worker.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/async_stream.h>
#include <grpcpp/support/async_unary_call.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/rpc_errors.h"
#include "client/text.h"
#include "loadtest/prompts.h"
#include "runtime/base/errors.h"

namespace sessa {
namespace {

// How soon timers and Ctrl-C are looked at while nothing else happens.
constexpr absl::Duration kTick = absl::Milliseconds(50);
// A user whose turn was refused tries again after the server's RetryInfo, within these bounds.
constexpr absl::Duration kMinBackOff = absl::Milliseconds(20), kMaxBackOff = absl::Seconds(5);

constexpr int kSeries = 80;  // steps of the plots over time

absl::Duration SeriesStep(const Scenario& scenario) {
  if (scenario.duration <= absl::ZeroDuration()) return absl::Milliseconds(500);
  return std::max((scenario.warm_up + scenario.duration) / kSeries, absl::Milliseconds(250));
}

std::string OutcomeName(const absl::Status& status) {
  const std::string code = absl::StatusCodeToString(status.code());
  const std::string reason = GetErrorDetail(status).reason;
  return reason.empty() ? code : absl::StrCat(code, "/", reason);
}

}  // namespace

// A session of one user (or arrival), from its first turn to its last.
struct Worker::Session {
  Connection* connection = nullptr;
  std::string id;  // empty before the first turn
  int64_t turns_left = 0;
};

// What the completion queue hands back.
class Worker::Tag {
 public:
  virtual ~Tag() = default;
  virtual void OnEvent(bool ok) = 0;
};

// One Generate call. Deletes itself at the end through OnTurnEnd.
class Worker::TurnCall : public Tag {
 public:
  TurnCall(Worker* worker, std::shared_ptr<Session> session)
      : worker_(worker), session_(std::move(session)) {}

  void Begin(const v1::GenerateRequest& request, absl::Time scheduled) {
    const Scenario& scenario = worker_->scenario_;
    if (worker_->random_.Uniform() < scenario.cancel_fraction) {
      cancel_after_ = worker_->random_.Integer(0, std::max(1, request.sampling().max_tokens()) - 1);
    }
    start_ = SinceStart();
    worker_->recorder_.OnStart(start_, worker_->setup_.start + start_ - scheduled);
    if (scenario.turn_timeout != absl::InfiniteDuration()) {
      context_.set_deadline(absl::ToChronoTime(absl::Now() + scenario.turn_timeout));
    }
    reader_ = session_->connection->inference->PrepareAsyncGenerate(&context_, request, &worker_->queue_);
    reader_->StartCall(this);
  }

  void OnEvent(bool ok) override {
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

  void Cancel() { context_.TryCancel(); }
  const std::shared_ptr<Session>& session() const { return session_; }

 private:
  enum class Phase { kStarting, kReading, kFinishing };

  absl::Duration SinceStart() const { return absl::Now() - worker_->setup_.start; }

  void OnResponse() {
    if (response_.has_started()) {
      session_->id = response_.started().session_id();
      prompt_tokens_ = response_.started().prompt_tokens();
    } else if (response_.has_delta() && response_.delta().token_ids_size() > 0) {
      OnTokens(response_.delta().token_ids_size());
    } else if (response_.has_sample_finished()) {
      finish_reason_ = v1::FinishReason_Name(response_.sample_finished().reason());
    } else if (response_.has_finished()) {
      const v1::Usage& usage = response_.finished().usage();
      finished_ = true;
      if (tokens_ == 0) worker_->recorder_.OnPromptDone(SinceStart(), prompt_tokens_);
      worker_->recorder_.OnUsage(start_, usage.cached_tokens(), usage.recomputed_tokens());
    }
    if (cancel_after_ >= 0 && tokens_ >= cancel_after_) Cancel();
  }

  void OnTokens(int count) {
    const absl::Duration now = SinceStart();
    if (tokens_ == 0) {
      worker_->recorder_.OnPromptDone(now, prompt_tokens_);
      worker_->recorder_.OnFirstToken(start_, now);
    }
    worker_->recorder_.OnTokens(start_, now, tokens_ == 0 ? absl::ZeroDuration() : now - last_token_, count);
    last_token_ = now;
    tokens_ += count;
  }

  void End() {
    const absl::Status status = FromGrpcStatus(status_);
    const bool cancelled = cancel_after_ >= 0 && status.code() == absl::StatusCode::kCancelled;
    const bool broken = status.ok() && !finished_;  // the server must send `finished` before OK
    const std::string outcome = cancelled ? "cancelled by the scenario"
                                : broken  ? "OK without finished"
                                          : OutcomeName(status);
    const bool failed = !cancelled && (broken || !status.ok());
    worker_->recorder_.OnEnd(start_, SinceStart(), outcome, failed, finish_reason_);
    absl::Duration back_off;
    if (failed)
      back_off =
          std::clamp(GetErrorDetail(status).retry_after.value_or(kMinBackOff), kMinBackOff, kMaxBackOff);
    worker_->OnTurnEnd(this, cancelled, back_off);
  }

  Worker* const worker_;
  const std::shared_ptr<Session> session_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader_;
  v1::GenerateResponse response_;
  grpc::Status status_;
  Phase phase_ = Phase::kStarting;
  absl::Duration start_, last_token_;
  int prompt_tokens_ = 0;
  int64_t tokens_ = 0;
  int64_t cancel_after_ = -1;  // tokens; -1: never
  bool finished_ = false;
  std::string finish_reason_;
};

// Forgets a kept session that the scenario is done with.
class Worker::DeleteCall : public Tag {
 public:
  DeleteCall(Worker* worker, const Session& session) : worker_(worker) {
    v1::DeleteSessionRequest request;
    request.set_session_id(session.id);
    request.set_request_id(RandomId());
    context_.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
    reader_ = session.connection->sessions->AsyncDeleteSession(&context_, request, &worker_->queue_);
    reader_->Finish(&response_, &status_, this);
  }
  void OnEvent(bool) override {
    --worker_->calls_;
    delete this;
  }

 private:
  Worker* const worker_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::DeleteSessionResponse>> reader_;
  v1::DeleteSessionResponse response_;
  grpc::Status status_;
};

Worker::Worker(const WorkerSetup& setup, std::vector<Connection*> connections, int index, int users,
               int first_user, double rate)
    : setup_(setup),
      scenario_(*setup.scenario),
      connections_(std::move(connections)),
      users_(users),
      first_user_(first_user),
      rate_(rate),
      random_(scenario_.seed * 0x9E3779B97F4A7C15ull + index),
      recorder_(scenario_.warm_up, SeriesStep(scenario_), scenario_.seed + index) {
  if (scenario_.duration > absl::ZeroDuration()) recorder_.until = scenario_.warm_up + scenario_.duration;
}

Worker::~Worker() {
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

void Worker::Run() {
  for (int i = 0; i < users_; ++i) {
    const absl::Time at =
        setup_.start + scenario_.ramp * (static_cast<double>(first_user_ + i) / scenario_.concurrency);
    At(at, [this, at] { NewSession(at); });
  }
  if (rate_ > 0) {
    const absl::Time first = setup_.start + absl::Seconds(random_.Exponential() / rate_);
    At(first, [this, first] { Arrive(first); });
  }
  absl::Time over_since = absl::InfiniteFuture();
  while (true) {
    RunTimers();
    if (IsOver()) {
      over_since = std::min(over_since, absl::Now());
      if (calls_ == 0) return;
      if (absl::Now() - over_since > scenario_.grace) CancelAll();
    }
    const absl::Time next = timers_.empty() ? absl::InfiniteFuture() : timers_.top().at;
    void* tag = nullptr;
    bool ok = false;
    const auto event = queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(std::min(next, absl::Now() + kTick)));
    if (event == grpc::CompletionQueue::GOT_EVENT) static_cast<Tag*>(tag)->OnEvent(ok);
  }
}

void Worker::At(absl::Time at, std::function<void()> action) {
  timers_.push({at, timers_made_++, std::move(action)});
}

void Worker::RunTimers() {
  // Once the scenario is over all of them run: sessions that think are deleted, nothing begins.
  while (!timers_.empty() && (timers_.top().at <= absl::Now() || IsOver())) {
    const std::function<void()> action = timers_.top().action;
    timers_.pop();
    action();
  }
}

void Worker::Arrive(absl::Time scheduled) {
  if (IsOver()) return;
  const absl::Time next = scheduled + absl::Seconds(random_.Exponential() / rate_);
  At(next, [this, next] { Arrive(next); });
  NewSession(scheduled);
}

void Worker::NewSession(absl::Time scheduled) {
  auto session = std::make_shared<Session>();
  session->connection = connections_[next_connection_++ % connections_.size()];
  session->turns_left = std::max<int64_t>(1, scenario_.turns.SampleInteger(&random_));
  BeginTurn(std::move(session), scheduled);
}

void Worker::BeginTurn(std::shared_ptr<Session> session, absl::Time scheduled) {
  if (!MayBegin()) return EndSession(session, absl::ZeroDuration());
  --session->turns_left;
  v1::GenerateRequest request;
  request.set_session_id(session->id);
  request.set_keep_session(scenario_.keeps_sessions());
  const int64_t prompt_tokens = std::max<int64_t>(1, scenario_.prompt_tokens.SampleInteger(&random_));
  if (scenario_.text_prompts) {
    SetRandomText(scenario_.texts, prompt_tokens, &random_, &request);
  } else {
    SetRandomIds(*setup_.model, prompt_tokens, &random_, &request);
  }
  v1::SamplingParams* sampling = request.mutable_sampling();
  sampling->set_max_tokens(static_cast<int32_t>(scenario_.generated_tokens.SampleInteger(&random_)));
  sampling->set_temperature(scenario_.temperature);
  sampling->set_ignore_eos(scenario_.ignore_eos);
  sampling->set_seed(random_.Next());
  auto* call = new TurnCall(this, std::move(session));
  turns_.insert(call);
  ++calls_;
  call->Begin(request, scheduled);
}

void Worker::OnTurnEnd(TurnCall* call, bool cancelled, absl::Duration back_off) {
  const std::unique_ptr<TurnCall> owned(call);
  turns_.erase(call);
  --calls_;
  const std::shared_ptr<Session> session = call->session();
  // A user who cancels leaves: the server may not have heard of it yet, and would refuse another turn.
  const bool goes_on = session->turns_left > 0 && !cancelled && back_off == absl::ZeroDuration();
  if (!goes_on) return EndSession(session, back_off);
  const absl::Time next = absl::Now() + absl::Seconds(scenario_.think_time.Sample(&random_));
  At(next, [this, session, next] { BeginTurn(session, next); });
}

void Worker::EndSession(const std::shared_ptr<Session>& session, absl::Duration back_off) {
  if (scenario_.keeps_sessions() && !session->id.empty()) {
    ++calls_;
    new DeleteCall(this, *session);
  }
  if (scenario_.open_loop() || IsOver()) return;
  const absl::Time next = absl::Now() + back_off;
  At(next, [this, next] { NewSession(next); });
}

bool Worker::MayBegin() {
  if (IsOver()) return false;
  return setup_.turns_begun->fetch_add(1) < scenario_.max_turns || scenario_.max_turns == 0;
}

bool Worker::IsOver() const {
  if (setup_.stopped->load()) return true;
  if (scenario_.max_turns > 0 && setup_.turns_begun->load() >= scenario_.max_turns) return true;
  return scenario_.duration > absl::ZeroDuration() &&
         absl::Now() >= setup_.start + scenario_.warm_up + scenario_.duration;
}

void Worker::CancelAll() {
  for (TurnCall* call : turns_) call->Cancel();
}

}  // namespace sessa
