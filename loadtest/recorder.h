// What a worker saw. Merged into one when all are done.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "loadtest/histogram.h"
#include "loadtest/random.h"

namespace sessa {

// One thread. Times are since the start of the run; only what falls after the warm-up enters the figures, but
// the series over time holds everything. A turn's `start` is when it should have begun: what a user waits
// because sessaload is behind its own schedule is part of the latencies, as it would be if the users were
// people.
class Recorder {
 public:
  // `bucket`: width of the series' steps. `seed`: of the choice of points to keep.
  Recorder(absl::Duration warm_up, absl::Duration bucket, uint64_t seed);

  // What happened over time, in steps of bucket().
  struct Step {
    uint64_t started = 0, ended = 0, failed = 0;  // turns
    uint64_t prompt_tokens = 0, generated_tokens = 0;
  };
  // A turn as a point of a plot.
  struct Point {
    double at = 0;       // seconds, when it should have begun
    double seconds = 0;  // to its first token
  };

  void OnStart(absl::Duration start, absl::Duration at);    // `at`: when it really began
  void OnPromptDone(absl::Duration at, int prompt_tokens);  // the first token came, or the end without one
  void OnFirstToken(absl::Duration start, absl::Duration at);
  void OnTokens(absl::Duration start, absl::Duration at, absl::Duration gap,
                int count);  // gap 0: the first ones
  // `outcome`: "OK", or code and reason. `failed`: it is an error. `finish_reason` may be empty.
  void OnEnd(absl::Duration start, absl::Duration at, const std::string& outcome, bool failed,
             const std::string& finish_reason);
  void OnUsage(absl::Duration start, int64_t cached_tokens, int64_t recomputed_tokens);
  void Merge(const Recorder& other);

  absl::Duration bucket() const { return bucket_; }
  const std::vector<Step>& steps() const { return steps_; }
  const std::vector<Point>& points() const { return points_; }
  const std::map<std::string, uint64_t>& outcomes() const { return outcomes_; }
  const std::map<std::string, uint64_t>& finish_reasons() const { return finish_reasons_; }

  // Of turns that began after the warm-up; `gap` only where it ended by `until`.
  Histogram first_token, gap, whole, late;
  uint64_t turns = 0, failed_turns = 0;
  int64_t cached_tokens = 0, recomputed_tokens = 0;
  // Of tokens that came between the warm-up and `until`, whenever their turn began.
  uint64_t prompt_tokens = 0, generated_tokens = 0;
  absl::Duration until = absl::InfiniteDuration();  // set before the run
  absl::Duration last_end;                          // of any turn

 private:
  bool Measured(absl::Duration at) const { return at >= warm_up_; }
  Step& StepAt(absl::Duration at);

  const absl::Duration warm_up_, bucket_;
  std::vector<Step> steps_;
  std::vector<Point> points_;  // a uniform choice of all turns
  uint64_t points_seen_ = 0;
  Random random_;
  std::map<std::string, uint64_t> outcomes_, finish_reasons_;
};

}  // namespace sessa
