// What load to make. Filled from sessaload's flags, whose help says the same in more words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "loadtest/distribution.h"

namespace sessa {

// Constant during a run.
struct Scenario {
  std::string name;

  // Arrivals. Closed loop: `concurrency` users, each with one session at a time. Open loop: sessions arrive
  // at random (Poisson), `rate` a second, whether the server keeps up or not. Exactly one of the two is above
  // 0.
  int32_t concurrency = 0;
  double rate = 0;

  // A session: turns, and the seconds between the end of one and the start of the next.
  Distribution turns, think_time;
  Distribution prompt_tokens;      // of a turn
  Distribution generated_tokens;   // max_tokens of a turn
  bool text_prompts = false;       // text of about that length instead of random ids
  std::vector<std::string> texts;  // sentences to draw from, for text prompts
  float temperature = 1.0f;
  bool ignore_eos = true;                                  // so that turns have the length asked for
  absl::Duration turn_timeout = absl::InfiniteDuration();  // gRPC deadline of a turn
  double cancel_fraction = 0;  // of the turns: cancelled after a random number of tokens

  // When. Turns that begin before `warm_up` are not measured; none begins after warm_up + duration, or after
  // `max_turns` (0: no limit); those that run then have `grace` to finish and are cancelled.
  absl::Duration warm_up, duration, grace;  // the last two may be infinite
  int64_t max_turns = 0;
  absl::Duration ramp;  // closed loop: users start evenly over this time

  // How.
  int32_t threads = 1, channels = 1;
  uint64_t seed = 1;

  bool open_loop() const { return rate > 0; }
  bool keeps_sessions() const { return turns.max() > 1; }
  // INVALID_ARGUMENT names the flag at fault.
  absl::Status Validate() const;
  std::string Describe() const;  // one line
};

}  // namespace sessa
