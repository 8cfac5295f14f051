// Times decode steps and prefills of a model whose sessions' pages hold random state.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model.h"
#include "runtime/state_arena.h"

namespace sessa {

struct Timing {
  std::vector<double> seconds;         // wall time of each step (decode), or of each whole prefill
  std::vector<double> device_seconds;  // the backend's share of it
  int64_t steps = 1;                   // that one entry of `seconds` stands for

  double MedianSeconds() const;
  double MedianDeviceSeconds() const;
};

struct TimerOptions {
  int32_t warmup = 5;       // entries that are not counted; >= 0
  int32_t repeats = 30;     // entries; >= 1
  double max_seconds = 10;  // stops repeating after that long, with at least three entries; >= 0
  int32_t max_rows = 2048;  // of a prefill step; >= 1
  bool pipelined = true;    // where the backend can: launch a step before the last one's tokens are known
};

// INVALID_ARGUMENT naming the field that is out of range. Both timers look first.
absl::Status CheckTimerOptions(const TimerOptions& options);

// Tokens that a decode cell may reach: context plus the steps timed.
int64_t DecodeTokens(int64_t context, const TimerOptions& options);

// `batch` sessions, each with pages of its own and `context` tokens of state at the first step. The pages
// must be filled (Ops::FillState). Steps are greedy; RESOURCE_EXHAUSTED when the arena is too small.
absl::StatusOr<Timing> TimeDecode(Model* model, StateArena* arena, int32_t batch, int64_t context,
                                  const TimerOptions& options);

// `batch` new sessions of `context` tokens each, in steps of up to max_rows rows; the last row of each is
// sampled.
absl::StatusOr<Timing> TimePrefill(Model* model, StateArena* arena, int32_t batch, int64_t context,
                                   const TimerOptions& options);

}  // namespace sessa
