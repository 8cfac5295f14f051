// A backend for tests of scheduling: a deterministic toy model whose next token is a hash of the session's
// whole prefix, computed from numbers that really lie in pages. A page mixed up, stale or missing, a wrong
// position, a token that is not the right one, or state that was not computed again changes every token that
// follows.
//
// Token t of a sequence has the number v_t = Mix(token_t, t, a_t), where a_t folds v_0 .. v_{t-1} in order.
// The logits of row t are Mix(v_t). In compact state a closed block keeps 32 bits of each v and the open page
// all 64; a row reads its own block in full and older ones cut, as the real model does.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace sessa::toy {

inline constexpr int32_t kVocab = 97;
inline constexpr int32_t kBos = 0;
inline constexpr int32_t kEos = 1;
// After this token every logit of the sequence is NaN. Never sampled.
inline constexpr int32_t kPoison = kVocab - 1;

ModelShape Shape();

// What the toy model says of a sequence alone.
class Oracle {
 public:
  explicit Oracle(bool compact) : compact_(compact) {}
  void Append(int32_t token);
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  // The token drawn after the sequence, or scored when target >= 0.
  OutputResult Next(const SampleParams* params, int32_t sampled_before, int32_t target = -1) const;

 private:
  const bool compact_;
  std::vector<int32_t> tokens_;
  uint64_t closed_ = 0;          // fold of closed blocks
  uint64_t open_ = 0;            // fold of all
  std::vector<uint64_t> block_;  // v of the open block
  uint64_t last_ = 0;            // v of the last token
  bool poisoned_ = false;
};

// Handles of a test on the backend that it gave away. Engine thread only.
struct Control {
  int64_t fail_at_step = -1;                      // Collect of that step reports a device fault
  std::function<void(const StepBatch&)> on_step;  // at BeginStep
  // Calls of each phase in the step that was launched last.
  struct Calls {
    int32_t norm_in = 0, project_append = 0, attend = 0, feedback_out = 0, prefill_solve = 0,
            residual_out = 0, head = 0, sample = 0;
  } calls;
  int64_t steps = 0;
  std::vector<std::string> errors;  // broken contracts of ops.h
};

class ToyOps : public Ops {
 public:
  struct Options {
    bool compact = false;
    int32_t steps_in_flight = 1;
    int32_t max_rows = 64;
    int32_t max_segments = 16;
    int32_t max_output_rows = 16;
    double seconds_per_row = 0;          // that a step says it took
    double host_seconds_per_target = 0;  // that it says its Collect took beside
  };
  ToyOps(const Options& options, std::shared_ptr<Control> control);

  const OpsInfo& info() const override { return info_; }
  const StateLayout& layout() const override { return layout_; }
  int64_t AvailableStateBytes() const override { return 1 << 30; }
  absl::Status AllocateState(int32_t pages, int32_t open_pages) override;
  void CopyPage(PageId from, PageId to) override;
  void CopyOpenPage(PageId from, PageId to) override;
  absl::Status ReadState(PageId, int32_t, Plane, int32_t, int32_t, float*) override;

  void BeginStep(const StepBatch& batch) override;
  bool NextPass() override { return !std::exchange(passed_, true); }
  void Embed() override {}
  void NormIn(int32_t) override { ++control_->calls.norm_in; }
  void ProjectAppend(int32_t) override { ++control_->calls.project_append; }
  void Attend(int32_t) override { ++control_->calls.attend; }
  void FeedbackOut(int32_t) override { ++control_->calls.feedback_out; }
  void PrefillSolve(int32_t) override { ++control_->calls.prefill_solve; }
  void ResidualOut(int32_t) override { ++control_->calls.residual_out; }
  void Head(int32_t, int32_t count) override;
  void Sample(int32_t, int32_t) override { ++control_->calls.sample; }
  int32_t pass_first_output() const override { return 0; }
  int32_t pass_output_count() const override;
  void EndStep() override;
  absl::StatusOr<StepResult> Collect() override;
  // Knows neither penalties (the host counts) nor log-probabilities ahead.
  bool CanRunAhead(const SampleParams& params) const override;
  absl::StatusOr<std::vector<float>> ReadLogits(int32_t) override;

 private:
  struct Work {                        // of the device's queue
    const StepBatch* batch = nullptr;  // nullptr: a copy
    uint64_t fingerprint = 0;          // of the batch at launch: it must not change
    bool open = false;
    PageId from = -1, to = -1;
  };
  struct Page {
    uint64_t v[kPageTokens];
    bool poisoned[kPageTokens];
  };

  void CheckBatch(const StepBatch& batch);
  static uint64_t Fingerprint(const StepBatch& batch);
  void Expect(bool truth, const char* what);
  StepResult Execute(const StepBatch& batch);
  void ExecuteSegment(const StepBatch& batch, const Segment& segment, size_t* next_output,
                      StepResult* result);

  const Options options_;
  const std::shared_ptr<Control> control_;
  OpsInfo info_;
  StateLayout layout_;
  std::vector<Page> pages_, open_pages_;
  std::vector<int32_t> slots_;
  std::vector<bool> slot_runs_ahead_;  // CanRunAhead of the row that wrote the slot, at launch
  std::deque<Work> queue_;  // launched, not executed: executed as late as the contract allows, at Collect
  const StepBatch* launching_ = nullptr;
  bool passed_ = false;
  int64_t collected_ = 0;
};

}  // namespace sessa::toy
