#include "scheduler/plan.h"

#include <algorithm>
#include <cassert>
#include <optional>

#include "kernels/state_layout.h"

namespace sessa {
namespace {

int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

struct Need {
  int64_t pages = 0;
  int32_t open_pages = 0;
};

// Working copy of one planning round.
class Planner {
 public:
  Planner(const PlanInput& input, StepPlan* plan)
      : in_(input),
        plan_(*plan),
        state_(input.sequences.size()),
        service_(input.service),
        free_pages_(input.free_pages),
        free_open_(input.free_open_pages),
        rows_left_(input.max_rows) {
    for (const PlanIdle& idle : input.idle) {
      idle_open_.push_back(idle.open_page);
      idle_shares_.push_back(idle.shares);
    }
    for (size_t i = 0; i < state_.size(); ++i) {
      const PlanSequence& s = in_.sequences[i];
      state_[i].resident = s.resident;
      state_[i].pages = s.pages;
      residents_ += s.resident;
    }
  }

  void Run() {
    PlanDecodes();
    PlanAdmissions();
    PlanPrefills();
  }

 private:
  struct State {
    bool resident;
    int64_t pages;
    bool dropped = false;
    bool parked = false;
    bool admitted = false;    // in this plan: has pages for all of its length
    int64_t taken_pages = 0;  // in this plan
    int32_t taken_open = 0;
  };

  const PlanSequence& seq(int32_t i) const { return in_.sequences[i]; }
  int32_t size() const { return static_cast<int32_t>(state_.size()); }
  bool Runnable(int32_t i) const { return seq(i).runnable && seq(i).deadline > in_.now; }
  bool Outranks(int32_t a, int32_t b) const {
    if (seq(a).priority != seq(b).priority) return seq(a).priority > seq(b).priority;
    return seq(a).arrival < seq(b).arrival;
  }
  int64_t Aged(int32_t i) const { return int64_t{seq(i).priority} + seq(i).aging; }
  // Whose turn it is among those that want rows or a place.
  bool Before(int32_t a, int32_t b) const {
    const int64_t aged_a = Aged(a), aged_b = Aged(b);
    if (aged_a != aged_b) return aged_a > aged_b;
    if (seq(a).priority != seq(b).priority) return seq(a).priority > seq(b).priority;
    if (seq(a).principal != seq(b).principal) {
      const double sa = service_[seq(a).principal], sb = service_[seq(b).principal];
      if (sa != sb) return sa < sb;
    }
    return seq(a).arrival < seq(b).arrival;
  }

  Need NeedFor(int32_t i, int64_t end) const {
    Need need;
    if (state_[i].admitted) return need;
    need.pages = std::max<int64_t>(0, PagesFor(end) - state_[i].pages) + seq(i).copy_page;
    need.open_pages = seq(i).needs_open_page;
    return need;
  }
  bool Fits(const Need& need) const { return need.pages <= free_pages_ && need.open_pages <= free_open_; }

  bool HoldsPages(int32_t v) const { return !state_[v].dropped && state_[v].pages > 0; }

  // Frees pages until `need` fits. may_drop(v): whether resident v may lose its pages for it. False: it does
  // not fit. A shared page counts for none of its holders, so that what can be freed is underestimated: with
  // `force` they are dropped even so, and the next plan sees what it gave.
  template <typename MayDrop>
  bool MakeRoom(int32_t wants, const Need& need, bool force, MayDrop may_drop) {
    const auto eligible = [&](int32_t v) {
      return v != wants && HoldsPages(v) && (!state_[v].resident || may_drop(v));
    };
    if (Fits(need)) return true;
    if (!force && !CouldFit(need, eligible)) return false;
    while (!Fits(need)) {
      if (CloseNextIdle(need) || EvictNextIdle(need)) continue;
      const std::optional<int32_t> victim = LowestRanked(eligible);
      if (!victim) {
        if (force) EvictNextShared();
        return false;
      }
      Drop(*victim);
    }
    return true;
  }

  template <typename Eligible>
  bool CouldFit(const Need& need, Eligible eligible) const {
    int64_t pages = free_pages_, open = free_open_;
    for (size_t i = 0; i < in_.idle.size(); ++i) {
      if (i >= next_idle_) pages += in_.idle[i].pages;
      open += idle_open_[i];
    }
    for (int32_t v = 0; v < size(); ++v) {
      if (!eligible(v)) continue;
      pages += seq(v).own_pages + state_[v].taken_pages;
      open += seq(v).own_open_page + state_[v].taken_open;
    }
    return need.pages <= pages && need.open_pages <= open;
  }

  bool CloseNextIdle(const Need& need) {
    if (need.open_pages <= free_open_) return false;
    while (next_close_ < in_.idle.size()) {
      const size_t i = next_close_++;
      if (!idle_open_[i]) continue;
      idle_open_[i] = false;
      ++free_open_;
      plan_.close.push_back(static_cast<int32_t>(i));
      return true;
    }
    return false;
  }

  bool EvictNextIdle(const Need& need) {
    if (need.pages <= free_pages_) return false;
    while (next_idle_ < in_.idle.size()) {
      const size_t i = next_idle_++;
      if (in_.idle[i].pages == 0) continue;
      free_pages_ += in_.idle[i].pages;
      free_open_ += idle_open_[i];
      idle_open_[i] = idle_shares_[i] = false;
      plan_.evict.push_back(static_cast<int32_t>(i));
      return true;
    }
    return false;
  }

  // An idle session that shares its pages: what that frees, if anything, the next plan sees.
  void EvictNextShared() {
    const auto next = std::find(idle_shares_.begin(), idle_shares_.end(), true);
    if (next == idle_shares_.end()) return;
    const auto i = next - idle_shares_.begin();
    idle_open_[i] = idle_shares_[i] = false;
    plan_.evict.push_back(static_cast<int32_t>(i));
  }

  // Waiting ones before residents, then by rank from the bottom.
  template <typename Eligible>
  std::optional<int32_t> LowestRanked(Eligible eligible) const {
    std::optional<int32_t> lowest;
    for (int32_t v = 0; v < size(); ++v) {
      if (!eligible(v)) continue;
      const bool lower = !lowest || (state_[v].resident != state_[*lowest].resident ? !state_[v].resident
                                                                                    : Outranks(*lowest, v));
      if (lower) lowest = v;
    }
    return lowest;
  }

  void Drop(int32_t v) {
    free_pages_ += seq(v).own_pages + state_[v].taken_pages;
    free_open_ += seq(v).own_open_page + state_[v].taken_open;
    if (state_[v].resident) LosePlace(v);
    state_[v] = State{.resident = false, .pages = 0, .dropped = true};
    plan_.drop.push_back(v);
  }

  void LosePlace(int32_t v) {
    state_[v].resident = false;
    --residents_;
    std::erase(plan_.admit, v);
    for (const StepPlan::Work& work : plan_.work) rows_left_ += work.sequence == v ? work.rows : 0;
    std::erase_if(plan_.work, [v](const StepPlan::Work& work) { return work.sequence == v; });
  }

  void Take(int32_t i, const Need& need, int64_t end) {
    free_pages_ -= need.pages;
    free_open_ -= need.open_pages;
    state_[i].taken_pages += need.pages;
    state_[i].taken_open += need.open_pages;
    state_[i].pages = std::max(state_[i].pages, PagesFor(end));
  }

  void AddWork(int32_t i, int64_t rows) {
    plan_.work.push_back({i, static_cast<int32_t>(rows)});
    rows_left_ -= rows;
    service_[seq(i).principal] += static_cast<double>(rows);
  }

  void PlanDecodes() {
    std::vector<int32_t> decodes;
    for (int32_t i = 0; i < size(); ++i) {
      if (state_[i].resident && Runnable(i) && Missing(i) == 1) decodes.push_back(i);
    }
    // In order of rank, so that the best is served first where pages are short.
    std::sort(decodes.begin(), decodes.end(), [&](int32_t a, int32_t b) { return Outranks(a, b); });
    for (int32_t i : decodes) {
      if (!state_[i].resident) continue;  // was dropped for a better one
      const Need need = NeedFor(i, seq(i).length);
      if (!MakeRoom(i, need, true, [&](int32_t v) { return Outranks(i, v); })) continue;
      Take(i, need, seq(i).length);
      AddWork(i, 1);
    }
  }

  void PlanAdmissions() {
    for (;;) {
      std::optional<int32_t> next;
      for (int32_t i = 0; i < size(); ++i) {
        const State& state = state_[i];
        const bool waits = !state.resident && !state.dropped && !state.parked;
        if (waits && Runnable(i) && Missing(i) > 0 && (!next || Before(i, *next))) next = i;
      }
      if (!next || !Admit(*next)) return;
    }
  }

  bool Admit(int32_t i) {
    const auto yields = [&](int32_t v) { return state_[v].resident && Aged(v) < seq(i).priority; };
    std::optional<int32_t> parked;
    if (residents_ >= in_.max_residents) {
      parked = LowestRanked(yields);
      if (!parked) return false;
    }
    const Need need = NeedFor(i, seq(i).length);
    if (!MakeRoom(i, need, residents_ == 0, yields)) return false;
    if (residents_ >= in_.max_residents) {
      LosePlace(*parked);
      state_[*parked].parked = true;
      plan_.park.push_back(*parked);
    }
    Take(i, need, seq(i).length);
    state_[i].resident = state_[i].admitted = true;
    ++residents_;
    plan_.admit.push_back(i);
    service_[seq(i).principal] += 1;  // so that several places go round the principals
    return true;
  }

  void PlanPrefills() {
    std::vector<int32_t> prefills;
    for (int32_t i = 0; i < size(); ++i) {
      const bool decodes = !state_[i].admitted && Missing(i) == 1;
      if (state_[i].resident && Runnable(i) && Missing(i) > 0 && !decodes) prefills.push_back(i);
    }
    if (!plan_.work.empty()) rows_left_ = std::min<int64_t>(rows_left_, in_.max_prefill_rows);
    while (!prefills.empty() && rows_left_ > 0) {
      const auto next = std::min_element(prefills.begin(), prefills.end(),
                                         [&](int32_t a, int32_t b) { return Before(a, b); });
      const int32_t i = *next;
      prefills.erase(next);
      if (!state_[i].resident) continue;  // was dropped for a better one
      const int64_t rows = std::min(Missing(i), rows_left_);
      const Need need = NeedFor(i, seq(i).computed + rows);
      if (!MakeRoom(i, need, true, [&](int32_t v) { return Outranks(i, v); })) continue;
      Take(i, need, seq(i).computed + rows);
      AddWork(i, rows);
    }
    // Single tokens come before longer segments.
    std::stable_partition(plan_.work.begin(), plan_.work.end(),
                          [](const StepPlan::Work& work) { return work.rows == 1; });
  }

  int64_t Missing(int32_t i) const { return seq(i).length - seq(i).computed; }

  const PlanInput& in_;
  StepPlan& plan_;
  std::vector<State> state_;
  std::vector<double> service_;
  int64_t free_pages_;
  int64_t free_open_;
  int64_t rows_left_;
  int32_t residents_ = 0;
  std::vector<bool> idle_open_;  // of each idle session: its open page is still there, and it alone holds it
  std::vector<bool> idle_shares_;  // ... it has pages that others hold, too, and was not evicted yet
  size_t next_idle_ = 0, next_close_ = 0;
};

}  // namespace

void StepPlan::Clear() {
  close.clear();
  evict.clear();
  park.clear();
  drop.clear();
  admit.clear();
  work.clear();
}

void Plan(const PlanInput& input, StepPlan* plan) {
  assert(input.max_residents <= input.max_rows);
  plan->Clear();
  Planner(input, plan).Run();
}

}  // namespace sessa
