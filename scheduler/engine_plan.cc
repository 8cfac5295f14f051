// A step's plan: what the engine holds as Plan sees it, and the plan carried out on the pages.
#include <algorithm>
#include <cassert>

#include "scheduler/engine.h"

namespace sessa {
namespace {

int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

// Tokens that the sequence has, those included that are being sampled.
int64_t Engine::KnownLength(const Turn* turn, const Sample* sample) const {
  if (sample == nullptr || (sample->index == 0 && !turn->samples.back().ready)) {
    const int64_t prompt_end = turn->start + static_cast<int64_t>(turn->prompt.size());
    return turn->request->n > 1 && ForkPoint(turn) > 0 ? ForkPoint(turn) : prompt_end;
  }
  return sample->sequence->size() + sample->in_flight;
}

// Whether the token that is being sampled now may be followed by another one before the host has seen it.
bool Engine::MayRunAhead(const Turn* turn, const Sample* sample) const {
  return sample->can_run_ahead && sample->resident &&
         sample->generated + sample->in_flight < turn->request->max_tokens &&
         sample->sequence->size() + sample->in_flight < context_limit_;
}

void Engine::AddCandidate(Turn* turn, Sample* sample) {
  const Sequence& sequence = sample == nullptr ? turn->session->sequence : *sample->sequence;
  const PageTable& table = sequence.table;
  PlanSequence s;
  s.principal = turn->principal;
  s.priority = turn->request->priority;
  s.arrival = (turn->id << 16) + (sample == nullptr ? 0 : sample->index);
  s.deadline = turn->request->deadline;
  s.resident = sample != nullptr && sample->resident;
  s.aging = s.resident ? sample->aging : 0;
  s.runnable = !turn->paused && (sample == nullptr || sample->in_flight == 0 || MayRunAhead(turn, sample));
  s.computed = sequence.computed();
  s.length = KnownLength(turn, sample);
  s.pages = static_cast<int32_t>(table.pages().size());
  s.own_pages = s.pages;
  if (shares_pages_) {
    for (PageId page : table.pages()) s.own_pages -= arena_.refs(PageKind::kState, page) > 1;
  }
  s.own_open_page = table.open_page() >= 0 && arena_.refs(PageKind::kOpen, table.open_page()) == 1;
  const PageNeed next = table.Need(s.computed + 1, arena_);
  s.copy_page = next.state > std::max<int64_t>(0, PagesFor(s.computed + 1) - s.pages);
  s.needs_open_page = next.open > 0;
  plan_input_.sequences.push_back(s);
  candidates_.push_back({turn, sample});
}

// As many idle sessions, least recently used first, as all sequences together could want pages of.
void Engine::AddIdle() {
  int64_t pages = -plan_input_.free_pages, open_pages = -plan_input_.free_open_pages;
  for (const PlanSequence& s : plan_input_.sequences) {
    pages += std::max<int64_t>(0, PagesFor(s.length) - s.pages) + s.copy_page;
    open_pages += s.needs_open_page;
  }
  for (Session* session : sessions_.idle_with_state()) {
    if (pages <= 0 && open_pages <= 0) return;
    const PageTable& table = session->sequence.table;
    PlanIdle idle;
    idle.pages = static_cast<int32_t>(table.pages().size());
    if (shares_pages_) {
      for (PageId page : table.pages()) idle.pages -= arena_.refs(PageKind::kState, page) > 1;
    }
    idle.open_page = table.open_page() >= 0 && arena_.refs(PageKind::kOpen, table.open_page()) == 1;
    idle.shares = idle.pages < static_cast<int32_t>(table.pages().size());
    plan_input_.idle.push_back(idle);
    idle_.push_back(session);
    pages -= idle.pages;
    open_pages -= idle.open_page;
  }
}

void Engine::FillPlanInput(absl::Time now) {
  plan_input_.now = now;
  plan_input_.free_pages = arena_.free(PageKind::kState);
  plan_input_.free_open_pages = arena_.free(PageKind::kOpen);
  plan_input_.service = principals_.service();
  plan_input_.sequences.clear();
  plan_input_.idle.clear();
  candidates_.clear();
  idle_.clear();
  shares_pages_ = std::any_of(turns_.begin(), turns_.end(), [](const auto& turn) {
    const TurnRequest& request = *turn.second->request;
    return request.n > 1 || (!request.append && !request.session_id.empty());
  });
  for (const auto& [id, turn] : turns_) {
    if (turn->phase == TurnPhase::kTokenizing) continue;
    if (turn->phase == TurnPhase::kWaiting) {
      AddCandidate(turn.get(), nullptr);
    }
    for (Sample& sample : turn->samples) {
      if (sample.ready && !sample.ended) AddCandidate(turn.get(), &sample);
    }
  }
  int32_t decoding = 0, waiting = 0;
  double places = 0;
  for (const PlanSequence& s : plan_input_.sequences) {
    if (!s.runnable || s.length <= s.computed) continue;
    if (s.resident && s.length - s.computed == 1) {
      ++decoding;
    } else {
      ++waiting;
      places += static_cast<double>(s.computed);
    }
  }
  plan_input_.max_prefill_rows = governor_.MaxPrefillRows(decoding, waiting, places / std::max(1, waiting));
  AgePriorities(now);
  AddIdle();
}

// A priority that waits while others are served moves up, all of it together, until one of its own is
// admitted: so nobody starves, and shares within a priority stay fair.
void Engine::AgePriorities(absl::Time now) {
  std::map<int32_t, absl::Time> since;
  for (const PlanSequence& s : plan_input_.sequences) {
    if (s.resident || !s.runnable) continue;
    const auto known = waiting_since_.find(s.priority);
    since.emplace(s.priority, known == waiting_since_.end() ? now : known->second);
  }
  waiting_since_ = std::move(since);
  if (waiting_since_.size() < 2) return;
  for (PlanSequence& s : plan_input_.sequences) {
    const auto waiting = waiting_since_.find(s.priority);
    if (s.resident || waiting == waiting_since_.end()) continue;
    const double periods = absl::FDivDuration(now - waiting->second, options_.priority_aging);
    s.aging = static_cast<int32_t>(std::clamp(periods, 0.0, 1e6));
  }
}

void Engine::ApplyPlan() {
  for (int32_t i : plan_.close) idle_[i]->sequence.DropOpenPage(&arena_);
  for (int32_t i : plan_.evict) {
    idle_[i]->sequence.DropState(&arena_);
    sessions_.StateDropped(idle_[i]);
    ++totals_.state_evictions;
  }
  for (int32_t i : plan_.park) LosePlace(candidates_[i].sample);
  for (int32_t i : plan_.drop) {
    const auto [turn, sample] = candidates_[i];
    if (sample == nullptr) {
      turn->session->sequence.DropState(&arena_);
      ++totals_.state_evictions;
    } else {
      LosePlace(sample);
      sample->sequence->DropState(&arena_);
      if (sample->index == 0) turn->prefill_from = 0;
      ++totals_.preemptions;
    }
  }
  for (int32_t i : plan_.admit) {
    Candidate& candidate = candidates_[i];
    waiting_since_[plan_input_.sequences[i].priority] = plan_input_.now;
    if (candidate.sample == nullptr) {
      StartTurn(candidate.turn);
      candidate.sample = &candidate.turn->samples[0];
    }
    candidate.sample->resident = true;
    candidate.sample->aging = plan_input_.sequences[i].aging;
    candidate.sample->slot = free_slots_.back();
    free_slots_.pop_back();
    const bool fits =
        candidate.sample->sequence->table.EnsureCapacity(plan_input_.sequences[i].length, &arena_, &copies_);
    assert(fits);
    (void)fits;
  }
}

}  // namespace sessa
