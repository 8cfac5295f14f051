// What the next step does: a pure function of what the engine holds.
//
// Words: a *sequence* is one sample of a turn. It is *resident* when it has a place in the running batch, and
// waits otherwise (it did not begin yet, was paused, or lost its place). A sequence has `length` known tokens
// and state for the first `computed` of them; it decodes when one is missing and prefills when more are. Rank
// orders sequences: higher priority first, then older arrival.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace sessa {

struct PlanSequence {
  int32_t principal = 0;  // index into PlanInput::service
  int32_t priority = 0;   // higher goes first
  // Added to the priority where places and prefill are given out. A resident keeps what it was admitted with,
  // as protection: only a higher priority without aging takes its place.
  int32_t aging = 0;
  uint64_t arrival = 0;  // smaller is older; unique
  bool resident = false;
  bool runnable = true;  // false: paused, or its next token is not known yet
  absl::Time deadline = absl::InfiniteFuture();
  int64_t computed = 0;
  int64_t length = 0;
  int32_t pages = 0;             // state pages in its table
  int32_t own_pages = 0;         // of those, the ones that nobody else holds: what dropping it frees
  bool own_open_page = false;    // likewise for the open page
  bool copy_page = false;        // the page that it writes next is shared: a copy takes one more
  bool needs_open_page = false;  // compact state: it has none of its own
};

// Pages of a session without a turn, those that nobody else holds: what evicting it frees.
struct PlanIdle {
  int32_t pages = 0;
  bool open_page = false;
  bool shares = false;  // it holds others, too
};

struct PlanInput {
  absl::Time now;
  int32_t max_rows = 512;          // of a step
  int32_t max_prefill_rows = 512;  // of a step that decodes, too
  int32_t max_residents = 256;     // sequences with a place in the batch; at most max_rows
  int32_t free_pages = 0, free_open_pages = 0;
  std::vector<PlanSequence> sequences;
  std::vector<PlanIdle> idle;   // least recently used first
  std::vector<double> service;  // rows that each principal was given; less means its turn
};

struct StepPlan {
  // Everything in this order. Indices into PlanInput's vectors.
  std::vector<int32_t>
      close;  // idle sessions that lose their open page only (at most 63 tokens to recompute)
  std::vector<int32_t> evict;  // idle sessions that lose their pages
  std::vector<int32_t> park;   // residents that lose their place and keep their pages
  std::vector<int32_t> drop;   // sequences that lose their place and their pages: computed again later
  std::vector<int32_t> admit;  // sequences that become resident; they get pages for all of their `length` now
  struct Work {
    int32_t sequence;
    int32_t rows;
  };
  std::vector<Work> work;  // rows == 1 first, then longer chunks; every row's page is there

  void Clear();
};

// - Every runnable resident that misses one token is in the step; the rest of max_rows goes to prefill (at
//   most max_prefill_rows of it beside decodes), in chunks, by priority and aging, then to the principal that
//   was served least, then by arrival.
// - A waiting sequence is admitted in the same order, when it has a place and all of its pages; the first one
//   that does not fit holds back those behind it, so that a long one is not starved by short ones.
// - Pages come from the free list, then from idle sessions (least recently used first), then from waiting
//   sequences (lowest rank first), then from residents: of lower rank where a resident needs a page to go on,
//   of lower priority where a waiting one wants in; where a resident, or the first to be one, still lacks
//   some, from idle sessions that share theirs.
// - A sequence whose deadline has passed gets nothing.
// Keeps the memory of `plan`.
void Plan(const PlanInput& input, StepPlan* plan);

}  // namespace sessa
