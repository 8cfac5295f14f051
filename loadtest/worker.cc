#include "loadtest/worker.h"

#include <algorithm>
#include <utility>

#include "loadtest/prompts.h"

namespace sessa {
namespace {

// How soon timers and Ctrl-C are looked at while nothing else happens.
constexpr absl::Duration kTick = absl::Milliseconds(50);

constexpr int kSeries = 80;  // steps of the plots over time

absl::Duration SeriesStep(const Scenario& scenario) {
  const bool known = scenario.duration > absl::ZeroDuration() && scenario.duration < absl::InfiniteDuration();
  if (!known) return absl::Milliseconds(500);
  return std::max((scenario.warm_up + scenario.duration) / kSeries, absl::Milliseconds(250));
}

}  // namespace

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
      if (absl::Now() - over_since > scenario_.grace || setup_.stops->load() > 1) {
        for (TurnCall* call : turns_) call->Cancel();
      }
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
  auto session = std::make_shared<LoadSession>();
  session->connection = connections_[next_connection_++ % connections_.size()];
  session->turns_left = std::max<int64_t>(1, scenario_.turns.SampleInteger(&random_));
  BeginTurn(std::move(session), scheduled);
}

void Worker::BeginTurn(std::shared_ptr<LoadSession> session, absl::Time scheduled) {
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
  int64_t cancel_after = -1;
  if (random_.Uniform() < scenario_.cancel_fraction) {
    cancel_after = random_.Integer(0, std::max(1, sampling->max_tokens()) - 1);
  }
  auto* call =
      new TurnCall(host(), std::move(session), cancel_after,
                   [this](TurnCall* ended, const TurnCall::Outcome& outcome) { OnTurnEnd(ended, outcome); });
  turns_.insert(call);
  ++calls_;
  call->Begin(request, scheduled, scenario_.turn_timeout);
}

void Worker::OnTurnEnd(TurnCall* call, const TurnCall::Outcome& outcome) {
  const std::unique_ptr<TurnCall> owned(call);
  turns_.erase(call);
  --calls_;
  const std::shared_ptr<LoadSession> session = call->session();
  // A user who cancels leaves: the server may not have heard of it yet, and would refuse another turn.
  const bool goes_on =
      session->turns_left > 0 && !outcome.cancelled && outcome.back_off == absl::ZeroDuration();
  if (!goes_on) return EndSession(session, outcome.back_off);
  const absl::Time next = absl::Now() + absl::Seconds(scenario_.think_time.Sample(&random_));
  At(next, [this, session, next] { BeginTurn(session, next); });
}

void Worker::EndSession(const std::shared_ptr<LoadSession>& session, absl::Duration back_off) {
  if (scenario_.keeps_sessions() && !session->id.empty()) {
    ++calls_;
    new DeleteCall(host(), *session, [this](DeleteCall* call) {
      const std::unique_ptr<DeleteCall> owned(call);
      --calls_;
    });
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
  if (setup_.stops->load() > 0) return true;
  if (scenario_.max_turns > 0 && setup_.turns_begun->load() >= scenario_.max_turns) return true;
  return scenario_.duration > absl::ZeroDuration() &&
         absl::Now() >= setup_.start + scenario_.warm_up + scenario_.duration;
}

}  // namespace sessa
