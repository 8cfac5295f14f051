#include "scheduler/engine.h"

#include <algorithm>
#include <cassert>

#include "runtime/base/errors.h"

namespace sessa {

Engine::Engine(const CoreOptions& options, std::unique_ptr<Ops> ops, Emitter* emitter, const CoreHooks* hooks,
               const Clock* clock, std::function<std::string()> make_session_id)
    : options_(options),
      context_limit_(std::min<int64_t>(options.max_context, int64_t{options.state_pages} * kPageTokens)),
      emitter_(emitter),
      hooks_(hooks),
      clock_(clock),
      model_(std::move(ops)),
      arena_(options.state_pages, options.open_pages),
      sessions_(options.max_sessions, std::move(make_session_id)),
      governor_(options.max_batch_tokens) {
  for (int32_t slot = options.max_batch_sessions; slot > 0;) free_slots_.push_back(--slot);
  plan_input_.max_rows = options.max_batch_tokens;
  plan_input_.max_residents = std::min(options.max_batch_sessions, options.max_batch_tokens);
  UpdateStatus();
}

Engine::~Engine() {
  assert(turns_.empty());
  sessions_.ForEach([this](Session* session) { session->sequence.DropState(&arena_); });
}

void Engine::Post(Task task) { inbox_.Push(std::move(task)); }

bool Engine::TryReserveWaiting() {
  if (waiting_.fetch_add(1, std::memory_order_relaxed) < options_.max_waiting) return true;
  ReleaseWaiting();
  return false;
}

void Engine::Run() {
  while (!stopping_.load(std::memory_order_acquire)) {
    if (!RunOnce()) inbox_.Wait(NextWake() - clock_->Now());
  }
  RunOnce();  // what was posted before Stop
  EndEverything(
      MakeError(absl::StatusCode::kUnavailable, "the server shuts down", {.reason = "SHUTTING_DOWN"}));
  while (failure_.ok() && !launched_.empty()) CollectStep();
  RunOnce();
}

void Engine::Stop() {
  stopping_.store(true, std::memory_order_release);
  inbox_.Wake();
}

bool Engine::RunOnce() {
  if (busy_since_.load(std::memory_order_relaxed) == 0) busy_since_.store(absl::ToUnixNanos(clock_->Now()));
  bool worked = inbox_.TakeAll(&tasks_);
  for (Task& task : tasks_) task();
  tasks_.clear();
  const absl::Time now = clock_->Now();
  ExpireTurns(now);
  ExpireSessions(now);
  if (failure_.ok()) {
    const size_t in_flight = static_cast<size_t>(model_.ops().info().steps_in_flight);
    const bool launched = launched_.size() < in_flight && LaunchStep(now);
    const bool collect = !launched_.empty() && (!launched || launched_.size() == in_flight);
    if (collect) CollectStep();
    worked = worked || launched || collect;
  }
  CheckDrained();
  finished_turns_.clear();
  UpdateStatus();  // before anybody is told
  Flush();
  busy_since_.store(worked ? absl::ToUnixNanos(clock_->Now()) : 0);
  return worked;
}

absl::Time Engine::NextWake() const {
  absl::Time wake = std::min(next_deadline_, turns_.empty() ? absl::InfiniteFuture() : drain_deadline_);
  if (!sessions_.idle().empty()) {
    wake = std::min(wake, sessions_.idle().front()->last_used + options_.idle_session_ttl);
  }
  if (!sessions_.idle_with_state().empty()) {
    wake = std::min(wake, sessions_.idle_with_state().front()->last_used + options_.idle_state_ttl);
  }
  return wake;
}

void Engine::Flush() { emitter_->Post(clock_->Now(), &outbox_); }

int32_t Engine::CountOrphanPages() const {
  std::vector<PageId> state, open;
  const auto add = [&](const Sequence& sequence) {
    state.insert(state.end(), sequence.table.pages().begin(), sequence.table.pages().end());
    if (sequence.table.open_page() >= 0) open.push_back(sequence.table.open_page());
  };
  sessions_.ForEach([&](const Session* session) { add(session->sequence); });
  for (const auto& [id, turn] : turns_) {
    if (turn->own_session) add(turn->own_session->sequence);
    for (const Sample& sample : turn->samples) {
      if (sample.own_sequence) add(*sample.own_sequence);
    }
  }
  return arena_.CountOrphans(PageKind::kState, state) + arena_.CountOrphans(PageKind::kOpen, open);
}

void Engine::UpdateStatus() {
  // The count visits every page: only at rest, and not at every breath.
  const absl::Time now = clock_->Now();
  if (idle() && now - orphans_counted_ >= absl::Seconds(1)) {
    totals_.orphan_pages = CountOrphanPages();
    orphans_counted_ = now;
  }
  totals_.running = running_;
  totals_.waiting = static_cast<int32_t>(turns_.size()) - running_;
  totals_.sessions = sessions_.size();
  totals_.sessions_with_state = static_cast<int32_t>(sessions_.idle_with_state().size());
  for (const auto& [id, turn] : turns_) {
    totals_.sessions_with_state += turn->session->kept && turn->session->sequence.computed() > 0;
  }
  totals_.pages_total = arena_.total(PageKind::kState);
  totals_.pages_free = arena_.free(PageKind::kState);
  totals_.open_pages_total = arena_.total(PageKind::kOpen);
  totals_.open_pages_free = arena_.free(PageKind::kOpen);
  totals_.serving = failure_.ok() && !draining_;
  MutexLock lock(&status_mutex_);
  status_ = totals_;
  if (!totals_.serving) status_.not_serving_reason = failure_.ok() ? "DRAINING" : "DEVICE_FAILED";
}

CoreStatus Engine::Status() const {
  CoreStatus status;
  {
    MutexLock lock(&status_mutex_);
    status = status_;
  }
  const int64_t busy_since = busy_since_.load();
  if (busy_since != 0) {
    status.step_age = std::max(absl::ZeroDuration(), clock_->Now() - absl::FromUnixNanos(busy_since));
  }
  status.generated_tokens = emitter_->generated_tokens();
  return status;
}

}  // namespace sessa
