#include "runtime/model.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sessa {
namespace {

using testing::ElementsAre;

// Writes down which phases it is asked for.
class RecordingOps : public Ops {
 public:
  RecordingOps(int32_t layers, int32_t max_output_rows, int32_t passes) : passes_(passes) {
    layout_.shape.layers = layers;
    info_.max_output_rows = max_output_rows;
  }
  std::vector<std::string> calls;
  std::map<std::string, int32_t> counts;

  const OpsInfo& info() const override { return info_; }
  const StateLayout& layout() const override { return layout_; }
  int64_t AvailableStateBytes() const override { return 0; }
  absl::Status AllocateState(int32_t, int32_t) override { return absl::OkStatus(); }
  void CopyPage(PageId, PageId) override {}
  void CopyOpenPage(PageId, PageId) override {}
  absl::Status ReadState(PageId, int32_t, Plane, int32_t, int32_t, float*) override {
    return absl::OkStatus();
  }

  void BeginStep(const StepBatch& batch) override {
    outputs_ = static_cast<int32_t>(batch.outputs.size());
    pass_ = -1;
    Note("BeginStep");
  }
  bool NextPass() override { return ++pass_ < passes_; }
  void Embed() override { Note("Embed"); }
  void NormIn(int32_t layer) override { Note("NormIn", layer); }
  void ProjectAppend(int32_t layer) override { Note("ProjectAppend", layer); }
  void Attend(int32_t layer) override { Note("Attend", layer); }
  void FeedbackOut(int32_t layer) override { Note("FeedbackOut", layer); }
  void PrefillSolve(int32_t layer) override { Note("PrefillSolve", layer); }
  void ResidualOut(int32_t layer) override { Note("ResidualOut", layer); }
  void Head(int32_t first, int32_t count) override { Note("Head", first, count); }
  void Sample(int32_t first, int32_t count) override { Note("Sample", first, count); }
  // The outputs are shared out evenly over the passes.
  int32_t pass_first_output() const override { return outputs_ * pass_ / passes_; }
  int32_t pass_output_count() const override {
    return outputs_ * (pass_ + 1) / passes_ - pass_first_output();
  }
  void EndStep() override { Note("EndStep"); }
  absl::StatusOr<StepResult> Collect() override { return StepResult(); }
  bool CanRunAhead(const SampleParams&) const override { return false; }
  double WorkerCpuSeconds() const override { return worker_cpu_seconds; }
  double worker_cpu_seconds = 0;
  absl::StatusOr<std::vector<float>> ReadLogits(int32_t) override { return std::vector<float>(); }

 private:
  template <typename... Numbers>
  void Note(const std::string& phase, Numbers... numbers) {
    calls.push_back(phase);
    (absl::StrAppend(&calls.back(), " ", numbers), ...);
    ++counts[phase];
  }

  OpsInfo info_;
  StateLayout layout_;
  const int32_t passes_;
  int32_t pass_ = 0, outputs_ = 0;
};

// A step of `rows` decoding sessions, one output each.
StepBatch DecodeStep(int32_t rows) {
  StepBatch batch;
  for (int32_t i = 0; i < rows; ++i) {
    Segment segment;
    segment.first_row = i;
    segment.rows = 1;
    batch.segments.push_back(segment);
    batch.tokens.push_back(i);
    batch.outputs.emplace_back().row = i;
  }
  return batch;
}

TEST(Model, RunsThePhasesOfTheLayerInOrder) {
  auto owned = std::make_unique<RecordingOps>(2, 64, 1);
  RecordingOps& ops = *owned;
  Model model(std::move(owned));
  model.Launch(DecodeStep(3));
  EXPECT_THAT(ops.calls, ElementsAre("BeginStep", "Embed", "NormIn 0", "ProjectAppend 0", "Attend 0",
                                     "FeedbackOut 0", "PrefillSolve 0", "ResidualOut 0", "NormIn 1",
                                     "ProjectAppend 1", "Attend 1", "FeedbackOut 1", "PrefillSolve 1",
                                     "ResidualOut 1", "Head 0 3", "Sample 0 3", "EndStep"));
}

TEST(Model, SixteenDecodingSessionsCallEachProjectionOnceALayer) {
  auto owned = std::make_unique<RecordingOps>(24, 64, 1);
  RecordingOps& ops = *owned;
  Model model(std::move(owned));
  model.Launch(DecodeStep(16));
  for (const char* phase : {"NormIn", "ProjectAppend", "Attend", "FeedbackOut", "ResidualOut"}) {
    EXPECT_EQ(ops.counts[phase], 24) << phase;
  }
  EXPECT_EQ(ops.counts["Head"], 1);
}

TEST(Model, CutsOutputsIntoSlicesThatTheBackendHasRoomFor) {
  auto owned = std::make_unique<RecordingOps>(0, 4, 2);
  RecordingOps& ops = *owned;
  Model model(std::move(owned));
  model.Launch(DecodeStep(12));  // six outputs a pass
  EXPECT_THAT(ops.calls,
              ElementsAre("BeginStep", "Embed", "Head 0 4", "Sample 0 4", "Head 4 2", "Sample 4 2", "Embed",
                          "Head 6 4", "Sample 6 4", "Head 10 2", "Sample 10 2", "EndStep"));
}

TEST(Model, AStepWithoutOutputsHasNoHead) {
  auto owned = std::make_unique<RecordingOps>(1, 4, 1);
  RecordingOps& ops = *owned;
  Model model(std::move(owned));
  StepBatch batch = DecodeStep(2);
  batch.outputs.clear();
  model.Launch(batch);
  EXPECT_EQ(ops.counts["Head"], 0);
  EXPECT_EQ(ops.counts["Sample"], 0);
}

// CPU time of the backend's own threads is told once, whatever the order of launches and collections.
TEST(Model, TellsTheCpuTimeOfTheOps) {
  auto owned = std::make_unique<RecordingOps>(1, 8, 1);
  RecordingOps* ops = owned.get();
  Model model(std::move(owned));
  const StepBatch batch;
  ops->worker_cpu_seconds = 100;
  model.Launch(batch);
  const absl::StatusOr<StepResult> first = model.Collect();
  ASSERT_TRUE(first.ok());
  EXPECT_GT(first->cpu_seconds, 100);  // and this thread's own
  EXPECT_LT(first->cpu_seconds, 150);
  model.Launch(batch);
  model.Launch(batch);
  ops->worker_cpu_seconds = 300;
  const absl::StatusOr<StepResult> second = model.Collect();
  const absl::StatusOr<StepResult> third = model.Collect();
  ASSERT_TRUE(second.ok() && third.ok());
  EXPECT_GT(second->cpu_seconds, 200);
  EXPECT_LT(third->cpu_seconds, 50);
}

}  // namespace
}  // namespace sessa
