#include "loadtest/recorder.h"

#include <algorithm>

namespace sessa {
namespace {

constexpr size_t kMaxPoints = 1500;  // of a worker
constexpr int64_t kMaxSteps = 100000;

}  // namespace

Recorder::Recorder(absl::Duration warm_up, absl::Duration bucket, uint64_t seed)
    : warm_up_(warm_up), bucket_(bucket), random_(seed) {}

Recorder::Step& Recorder::StepAt(absl::Duration at) {
  const size_t index = static_cast<size_t>(std::clamp<int64_t>(at / bucket_, 0, kMaxSteps - 1));
  if (steps_.size() <= index) steps_.resize(index + 1);
  return steps_[index];
}

void Recorder::OnStart(absl::Duration start, absl::Duration at) {
  ++StepAt(at).started;
  if (Measured(start)) late.Add(absl::ToDoubleSeconds(at - start));
}

void Recorder::OnPromptDone(absl::Duration at, int count) {
  StepAt(at).prompt_tokens += count;
  if (Measured(at) && at <= until) prompt_tokens += count;
}

void Recorder::OnFirstToken(absl::Duration start, absl::Duration at) {
  const double seconds = absl::ToDoubleSeconds(at - start);
  if (Measured(start)) first_token.Add(seconds);
  // Reservoir sampling: each turn so far is kept with the same probability.
  const Point point{absl::ToDoubleSeconds(start), seconds};
  ++points_seen_;
  if (points_.size() < kMaxPoints) {
    points_.push_back(point);
  } else if (const uint64_t place = random_.Integer(0, points_seen_ - 1); place < kMaxPoints) {
    points_[place] = point;
  }
}

void Recorder::OnTokens(absl::Duration start, absl::Duration at, absl::Duration since, int count) {
  StepAt(at).generated_tokens += count;
  if (Measured(at) && at <= until) generated_tokens += count;
  // As with the tokens themselves: after the end the load falls, and gaps with it.
  if (Measured(start) && at <= until && since > absl::ZeroDuration()) gap.Add(absl::ToDoubleSeconds(since));
}

void Recorder::OnEnd(absl::Duration start, absl::Duration at, const std::string& outcome, bool failed,
                     const std::string& finish_reason) {
  Step& step = StepAt(at);
  ++step.ended;
  step.failed += failed;
  last_end = std::max(last_end, at);
  if (!Measured(start)) return;
  ++turns;
  failed_turns += failed;
  ++outcomes_[outcome];
  if (!finish_reason.empty()) ++finish_reasons_[finish_reason];
  if (outcome == "OK") whole.Add(absl::ToDoubleSeconds(at - start));
}

void Recorder::OnUsage(absl::Duration start, int64_t cached, int64_t recomputed) {
  if (!Measured(start)) return;
  cached_tokens += cached;
  recomputed_tokens += recomputed;
}

void Recorder::Merge(const Recorder& other) {
  first_token.Merge(other.first_token);
  gap.Merge(other.gap);
  whole.Merge(other.whole);
  late.Merge(other.late);
  turns += other.turns;
  failed_turns += other.failed_turns;
  cached_tokens += other.cached_tokens;
  recomputed_tokens += other.recomputed_tokens;
  prompt_tokens += other.prompt_tokens;
  generated_tokens += other.generated_tokens;
  last_end = std::max(last_end, other.last_end);
  steps_.resize(std::max(steps_.size(), other.steps_.size()));
  for (size_t i = 0; i < other.steps_.size(); ++i) {
    steps_[i].started += other.steps_[i].started;
    steps_[i].ended += other.steps_[i].ended;
    steps_[i].failed += other.steps_[i].failed;
    steps_[i].prompt_tokens += other.steps_[i].prompt_tokens;
    steps_[i].generated_tokens += other.steps_[i].generated_tokens;
  }
  points_.insert(points_.end(), other.points_.begin(), other.points_.end());
  for (const auto& [name, count] : other.outcomes_) outcomes_[name] += count;
  for (const auto& [name, count] : other.finish_reasons_) finish_reasons_[name] += count;
}

}  // namespace sessa
