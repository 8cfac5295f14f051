#include "tools/step_timer.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/reference/reference_ops.h"
#include "tools/random_weights.h"
#include "tools/step_work.h"

namespace sessa {
namespace {

ModelShape SmallShape() {
  ModelShape shape;
  shape.vocab = 97;
  shape.width = 64;
  shape.layers = 1;
  shape.heads = 4;
  shape.kv_heads = 2;
  return shape;
}

struct Runner {
  explicit Runner(int32_t pages)
      : model([] {
          OpsOptions options;
          options.state_dtype = StateDtype::kCompact;
          const ModelShape shape = SmallShape();
          return CreateReferenceOps(shape, RandomWeights(shape, 1).tensors(), options).value();
        }()),
        arena(pages, 3) {
    EXPECT_TRUE(model.ops().AllocateState(pages, 3).ok());
  }
  Model model;
  StateArena arena;
};

TimerOptions FewRepeats() {
  TimerOptions options;
  options.warmup = 2;
  options.repeats = 4;
  options.max_rows = 50;
  return options;
}

TEST(StepTimer, TimesDecodeAndGivesItsPagesBack) {
  Runner runner(9);
  const Timing timing = TimeDecode(&runner.model, &runner.arena, 3, 150, FewRepeats()).value();
  EXPECT_EQ(timing.seconds.size(), 4u);
  EXPECT_GT(timing.MedianSeconds(), 0);
  EXPECT_GT(timing.MedianDeviceSeconds(), 0);
  EXPECT_EQ(runner.arena.used(PageKind::kState), 0);
  EXPECT_EQ(runner.arena.used(PageKind::kOpen), 0);
}

TEST(StepTimer, PacksPrefillIntoFullSteps) {
  Runner runner(9);
  const Timing timing = TimePrefill(&runner.model, &runner.arena, 3, 100, FewRepeats()).value();
  EXPECT_EQ(timing.seconds.size(), 4u);
  EXPECT_EQ(timing.steps, 6);
  // 101 tokens: the odd token of each session cannot follow longer segments in a step.
  EXPECT_TRUE(TimePrefill(&runner.model, &runner.arena, 2, 101, FewRepeats()).ok());
  EXPECT_EQ(runner.arena.used(PageKind::kState), 0);
}

TEST(StepTimer, SaysWhenPagesDoNotSuffice) {
  Runner runner(2);
  EXPECT_EQ(TimeDecode(&runner.model, &runner.arena, 3, 150, FewRepeats()).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(runner.arena.used(PageKind::kState), 0);
}

TEST(StepTimer, NamesTheOptionThatCannotBe) {
  const std::pair<const char*, void (*)(TimerOptions*)> wrong[] = {
      {"warmup must be at least 0, not -1", [](TimerOptions* o) { o->warmup = -1; }},
      {"repeats must be at least 1, not 0", [](TimerOptions* o) { o->repeats = 0; }},
      {"max_seconds must be at least 0, not nan", [](TimerOptions* o) { o->max_seconds = std::nan(""); }},
      {"max_rows must be at least 1, not 0", [](TimerOptions* o) { o->max_rows = 0; }},
  };
  Runner runner(9);
  for (const auto& [message, spoil] : wrong) {
    TimerOptions options = FewRepeats();
    spoil(&options);
    EXPECT_EQ(TimeDecode(&runner.model, &runner.arena, 1, 10, options).status().message(), message);
    EXPECT_EQ(TimePrefill(&runner.model, &runner.arena, 1, 10, options).status().message(), message);
  }
}

TEST(StepWork, CountsTheBenchShapeAsItsDesignDoes) {
  ModelShape shape;
  shape.width = 1024;
  shape.layers = 24;
  shape.heads = 16;
  shape.kv_heads = 4;
  shape.vocab = 32000;
  const StateLayout layout = {shape, StateDtype::kCompact};
  EXPECT_NEAR(ParametersReadPerStep(shape), 222e6, 1e6);
  EXPECT_EQ(layout.token_bytes(), 24 * 5120);
  OpsInfo info;
  info.weight_bytes = 2 * ParameterCount(shape);
  // (24 (15.7 MB + 5120 B x 64 x 1024) + 65.5 MB): 2.0 ms at 4.27 TB/s.
  EXPECT_NEAR(DecodeWork(layout, info, 64, 1024).bytes, 24 * (15.7e6 + 5120.0 * 64 * 1024) + 65.5e6, 5e6);
  // 15.7 MFLOP a token a layer, and 2 D T^2 for each attention: 1.6 ms at 779 TFLOP/s for 2048 tokens.
  const double t = 2048;
  EXPECT_NEAR(PrefillWork(layout, info, 1, 2048, 1).flops, 24 * (t * 15.7e6 + 4 * 1024 * t * t), 5e9);
}

TEST(RandomWeights, AreTheSameForTheSameSeed) {
  const ModelShape shape = SmallShape();
  const RandomWeights a(shape, 1), b(shape, 1), c(shape, 2);
  const size_t bytes = 2 * shape.vocab * shape.width;
  EXPECT_EQ(std::memcmp(a.tensors().embed.data, b.tensors().embed.data, bytes), 0);
  EXPECT_NE(std::memcmp(a.tensors().embed.data, c.tensors().embed.data, bytes), 0);
}

}  // namespace
}  // namespace sessa
