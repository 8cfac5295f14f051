// Turns on their way out: ends from inside and outside.
#include <algorithm>
#include <cassert>

#include "runtime/base/errors.h"
#include "scheduler/engine.h"

namespace sessa {

void Engine::LosePlace(Sample* sample) {
  if (!sample->resident) return;
  sample->resident = false;
  free_slots_.push_back(sample->slot);
  sample->slot = -1;
}

void Engine::EndSample(Turn* turn, Sample* sample, FinishReason reason) {
  assert(!sample->ended);
  sample->ended = true;
  sample->reason = reason;
  LosePlace(sample);
  if (sample->sequence != nullptr) sample->sequence->TruncateState(sample->sequence->size(), &arena_);
  if (turn->stream->has_stop_strings() && sample->generated > 0) {
    Emit(turn, EndOfTokens{sample->index});  // its text has the last word
  } else {
    CloseSample(turn, sample);
  }
}

void Engine::ApplyVerdict(const TextVerdict& verdict) {
  const auto it = turns_.find(verdict.turn_id);
  if (it == turns_.end()) return;
  Turn* turn = it->second.get();
  Sample* sample = &turn->samples[verdict.sample];
  if (sample->closed) return;
  if (verdict.matched) {
    totals_.discarded_tokens += sample->generated - verdict.keep_tokens;
    sample->generated = verdict.keep_tokens;
    sample->sequence->Truncate(turn->prompt_end + verdict.keep_tokens, &arena_);
    sample->ended = true;
    sample->reason = FinishReason::kStop;
    sample->stop_token = -1;
    sample->error = absl::OkStatus();
    LosePlace(sample);
  }
  CloseSample(turn, sample);
}

void Engine::CloseSample(Turn* turn, Sample* sample) {
  sample->closed = true;
  if (sample->sequence != nullptr && !turn->session->kept) sample->sequence->DropState(&arena_);
  if (sample->error.ok() && turn->error.ok()) {
    auto event = std::make_unique<SampleFinishedEvent>();
    event->index = sample->index;
    event->reason = sample->reason;
    event->stop_token = sample->stop_token;
    Emit(turn, std::move(event));
  }
  const auto closed = [](const Sample& s) { return s.closed; };
  if (std::all_of(turn->samples.begin(), turn->samples.end(), closed)) FinishTurn(turn);
}

void Engine::EndTurn(Turn* turn, FinishReason reason) {
  if (turn->phase == TurnPhase::kRunning) {
    for (Sample& sample : turn->samples) {
      if (!sample.ended) EndSample(turn, &sample, reason);
    }
    return;
  }
  for (int32_t i = 0; turn->error.ok() && i < turn->request->n; ++i) {
    auto event = std::make_unique<SampleFinishedEvent>();
    event->index = i;
    event->reason = reason;
    Emit(turn, std::move(event));
  }
  FinishTurn(turn);
}

void Engine::FailTurn(Turn* turn, absl::Status error) {
  turn->error = std::move(error);
  for (Sample& sample : turn->samples) {
    LosePlace(&sample);
    sample.ended = sample.closed = true;
    if (sample.sequence != nullptr) sample.sequence->TruncateState(sample.sequence->size(), &arena_);
    if (sample.own_sequence) sample.own_sequence->DropState(&arena_);
  }
  FinishTurn(turn);
}

void Engine::FinishTurn(Turn* turn) {
  const absl::Time now = clock_->Now();
  const bool started = turn->phase == TurnPhase::kRunning;
  auto end = std::make_unique<TurnEnd>();
  end->status = turn->error;
  FinishedEvent& finished = end->finished;
  for (const Sample& sample : turn->samples) {
    finished.generated_tokens += sample.generated;
    if (end->status.ok()) end->status = sample.error;
  }
  finished.position = turn->session == nullptr ? 0 : turn->session->sequence.size();
  finished.cached_tokens = turn->cached_tokens;
  finished.recomputed_tokens = turn->recomputed_tokens;
  finished.queue_time = (started ? turn->started : now) - turn->submitted;
  if (started) {
    const absl::Time first = std::min(turn->first_token, now);
    finished.prompt_tokens = static_cast<int32_t>(turn->prompt.size());
    finished.prefill_time = first - turn->started;
    finished.decode_time = now - first;
    --running_;
  } else {
    ReleaseWaiting();
  }
  ReleaseTurnSession(turn);
  if (turn->cancelled != absl::InfiniteFuture() && hooks_->on_cancel_to_free) {
    hooks_->on_cancel_to_free(now - turn->cancelled);
  }
  principals_.Leave(turn->request->principal.name);
  const auto by_request = turns_by_request_.find({turn->request->principal.name, turn->request->request_id});
  if (by_request->second == turn) turns_by_request_.erase(by_request);

  *turn->prompt_unwanted = true;
  end->stream = turn->stream;
  Emit(turn, std::move(end));
  const auto it = turns_.find(turn->id);
  finished_turns_.push_back(std::move(it->second));
  turns_.erase(it);
}

void Engine::ReleaseTurnSession(Turn* turn) {
  Session* session = turn->session;
  if (session == nullptr || session->turn != turn) return;  // it was refused
  session->turn = nullptr;
  if (!session->kept) {
    session->sequence.DropState(&arena_);
  } else if (!session->on_deleted.empty() || (turn->created_session && turn->phase != TurnPhase::kRunning)) {
    RemoveSession(session);
  } else {
    sessions_.SetIdle(session, clock_->Now());
  }
}

Turn* Engine::FindTurn(const std::string& principal, const std::string& request_id) const {
  const auto it = turns_by_request_.find({principal, request_id});
  return it == turns_by_request_.end() ? nullptr : it->second;
}

void Engine::Cancel(const std::string& principal, const std::string& request_id, absl::Status error,
                    absl::Time at) {
  if (Turn* turn = FindTurn(principal, request_id); turn != nullptr) CancelTurn(turn, std::move(error), at);
}

void Engine::CancelOnSession(const std::string& principal, const std::string& session_id, absl::Time at) {
  for (const auto& [id, turn] : turns_) {
    const TurnRequest& request = *turn->request;
    if (!request.append || request.principal.name != principal || turn->session->id != session_id) continue;
    return CancelTurn(turn.get(), absl::OkStatus(), at);
  }
}

void Engine::CancelTurn(Turn* turn, absl::Status error, absl::Time at) {
  if (turn->cancelled != absl::InfiniteFuture()) return;
  turn->cancelled = at;
  turn->error = std::move(error);
  EndTurn(turn, FinishReason::kCancelled);
}

void Engine::SetPaused(const std::string& principal, const std::string& request_id, bool paused) {
  Turn* turn = FindTurn(principal, request_id);
  if (turn == nullptr) return;
  turn->paused = paused;
  if (!paused) return;
  for (Sample& sample : turn->samples) LosePlace(&sample);
}

void Engine::ExpireTurns(absl::Time now) {
  const bool drained = now >= drain_deadline_;
  if (now < next_deadline_ && !drained) return;
  std::vector<Turn*> all;
  for (const auto& [id, turn] : turns_) all.push_back(turn.get());
  next_deadline_ = absl::InfiniteFuture();
  for (Turn* turn : all) {
    if (turn->request->deadline <= now && turn->phase != TurnPhase::kRunning) {
      FailTurn(turn, MakeError(absl::StatusCode::kDeadlineExceeded,
                               "the deadline passed before the turn began", {.reason = "DEADLINE_EXCEEDED"}));
    } else if (turn->request->deadline <= now) {
      EndTurn(turn, FinishReason::kDeadline);
    } else if (drained) {
      EndTurn(turn, FinishReason::kDrained);
    } else {
      next_deadline_ = std::min(next_deadline_, turn->request->deadline);
    }
  }
}

void Engine::EndEverything(const absl::Status& status) {
  while (!turns_.empty()) FailTurn(turns_.begin()->second.get(), status);
}

void Engine::Drain(absl::Time deadline, std::function<void()> done) {
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, deadline);
  on_drained_.push_back(std::move(done));
}

void Engine::CallEmitter(std::function<void()> run) {
  outbox_.push_back({nullptr, std::make_unique<Call>(Call{std::move(run)})});
}

// A sink may submit its call's next turn when it is told of an end. So the emitter is asked first: its answer
// comes after whatever the sinks have submitted by then.
void Engine::CheckDrained() {
  if (on_drained_.empty() || !turns_.empty() || asking_emitter_) return;
  if (stopping_.load(std::memory_order_relaxed)) return Drained();  // nothing is taken any more
  asking_emitter_ = true;
  CallEmitter([this] {
    Post([this] {
      asking_emitter_ = false;
      if (turns_.empty()) Drained();
    });
  });
}

void Engine::Drained() {
  for (std::function<void()>& done : on_drained_) CallEmitter(std::move(done));
  on_drained_.clear();
}

}  // namespace sessa
