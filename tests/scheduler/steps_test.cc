// What steps are made of, and what is reported of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "tests/scheduler/toy_core.h"

namespace sessa::toy {
namespace {

std::shared_ptr<RecordingSink> Sink() { return std::make_shared<RecordingSink>(); }

std::unique_ptr<TurnRequest> Decoder(int32_t i, int32_t tokens, std::shared_ptr<RecordingSink> sink) {
  auto request = Request(absl::StrCat("decoder", i), {kBos, 2 + i}, tokens, std::move(sink));
  request->ignore_eos = true;
  return request;
}

class StepsTest : public testing::TestWithParam<int32_t> {  // steps in flight
 protected:
  static ToyConfig Config() {
    ToyConfig config;
    config.ops.steps_in_flight = GetParam();
    config.ops.max_rows = 128;
    config.ops.max_segments = config.max_batch_sessions = 32;
    config.max_context = 4096;
    config.state_pages = 200;
    return config;
  }
};
INSTANTIATE_TEST_SUITE_P(InFlight, StepsTest, testing::Values(1, 2));

TEST_P(StepsTest, ALongPrefillLeavesNoDecoderOutOfAnyStep) {
  ToyCore toy(Config());
  constexpr int32_t kDecoders = 5;
  for (int32_t i = 0; i < kDecoders; ++i) ASSERT_TRUE(toy.core().Submit(Decoder(i, 200, Sink())).ok());
  for (int32_t i = 0; i < 5; ++i) toy.engine().RunOnce();

  int32_t prefill_steps = 0;
  toy.control().on_step = [&](const StepBatch& batch) {
    int32_t decoders = 0, prefill_rows = 0;
    for (const Segment& segment : batch.segments) {
      if (segment.rows == 1 && segment.start < 1000) ++decoders;
      if (segment.rows > 1) prefill_rows += segment.rows;
    }
    if (prefill_rows == 0) return;
    ++prefill_steps;
    EXPECT_EQ(decoders, kDecoders);
    EXPECT_LE(batch.rows(), 128);
  };
  auto request = Request("long", std::vector<int32_t>(2048, 7), 1, Sink());
  const auto sink = std::static_pointer_cast<RecordingSink>(request->sink);
  ASSERT_TRUE(toy.core().Submit(std::move(request)).ok());
  while (!sink->over()) {
    toy.engine().RunOnce();
    toy.emitter().RunOnce();
  }
  EXPECT_GE(prefill_steps, 2048 / (128 - kDecoders) + 1);
  EXPECT_LE(prefill_steps, 20)
      << "small ones first and now and then, else what the decoders leave of 128 rows";
}

// Rows that are scored on the host cost the decoders of their step as much as rows that the device is slow
// with.
TEST_P(StepsTest, ChunksThatTheHostScoresAreBoundedByWhatItTakes) {
  ToyConfig config = Config();
  config.ops.seconds_per_row = 1e-9;
  config.ops.host_seconds_per_target = 1e-6;
  ToyCore toy(config);
  for (int32_t i = 0; i < 5; ++i) ASSERT_TRUE(toy.core().Submit(Decoder(i, 2000, Sink())).ok());
  for (int32_t i = 0; i < 5; ++i) toy.engine().RunOnce();
  std::vector<int32_t> chunks;
  toy.control().on_step = [&](const StepBatch& batch) {
    for (const Segment& segment : batch.segments) {
      if (segment.rows > 1) chunks.push_back(segment.rows);
    }
  };
  auto request = Request("scored", std::vector<int32_t>(2048, 7), 1, Sink());
  request->prompt_logprobs = 1;
  const auto sink = std::static_pointer_cast<RecordingSink>(request->sink);
  ASSERT_TRUE(toy.core().Submit(std::move(request)).ok());
  while (!sink->over()) {
    toy.engine().RunOnce();
    toy.emitter().RunOnce();
  }
  ASSERT_GT(chunks.size(), 40u);
  for (size_t i = 20; i < chunks.size(); ++i) EXPECT_LE(chunks[i], 20) << i;
}

TEST_P(StepsTest, SixteenDecodersCallEachPhaseOnceALayer) {
  ToyCore toy(Config());
  for (int32_t i = 0; i < 16; ++i) ASSERT_TRUE(toy.core().Submit(Decoder(i, 50, Sink())).ok());
  for (int32_t i = 0; i < 10; ++i) toy.engine().RunOnce();
  int32_t rows = 0;
  toy.control().on_step = [&rows](const StepBatch& batch) { rows = batch.rows(); };
  toy.engine().RunOnce();
  EXPECT_EQ(rows, 16);
  const Control::Calls& calls = toy.control().calls;
  const int32_t layers = Shape().layers;
  EXPECT_EQ(calls.norm_in, layers);
  EXPECT_EQ(calls.project_append, layers);
  EXPECT_EQ(calls.attend, layers);
  EXPECT_EQ(calls.feedback_out, layers);
  EXPECT_EQ(calls.residual_out, layers);
  EXPECT_EQ(calls.head, 1);
  EXPECT_EQ(calls.sample, 1);
}

TEST_P(StepsTest, OneStepIsPlannedAheadWhereTheBackendAllowsIt) {
  ToyCore toy(Config());
  int32_t ahead = 0;
  toy.control().on_step = [&ahead](const StepBatch& batch) {
    for (const Segment& segment : batch.segments) ahead += segment.token_slot >= 0;
  };
  ASSERT_TRUE(toy.core().Submit(Decoder(0, 50, Sink())).ok());
  toy.Settle();
  EXPECT_EQ(ahead, GetParam() == 2 ? 49 : 0) << "all but the first, which follows the prompt";
  EXPECT_EQ(toy.control().steps, 50);
}

TEST_P(StepsTest, PenaltiesDoNotRunAhead) {
  ToyCore toy(Config());
  int32_t ahead = 0;
  toy.control().on_step = [&ahead](const StepBatch& batch) {
    for (const Segment& segment : batch.segments) ahead += segment.token_slot >= 0;
  };
  auto request = Decoder(0, 20, Sink());
  request->sampling.presence_penalty = 1;
  const TurnRecord record = toy.Run(std::move(request));
  EXPECT_EQ(record.samples[0].tokens.size(), 20);
  EXPECT_EQ(ahead, 0);
  EXPECT_TRUE(toy.control().errors.empty());
}

TEST(StatusTest, StepAgeGrowsWhileAStepHangs) {
  ToyConfig config;
  ToyCore toy(config);
  absl::Duration age_before, age_inside;
  toy.control().on_step = [&](const StepBatch&) {
    age_before = toy.core().Status().step_age;
    toy.clock().Advance(absl::Seconds(30));  // the device hangs
    age_inside = toy.core().Status().step_age;
  };
  EXPECT_EQ(toy.core().Status().step_age, absl::ZeroDuration());
  toy.Run(Decoder(0, 1, Sink()));
  EXPECT_EQ(age_before, absl::ZeroDuration());
  EXPECT_EQ(age_inside, absl::Seconds(30));
  EXPECT_EQ(toy.core().Status().step_age, absl::ZeroDuration()) << "nothing to do";
}

TEST(StatusTest, HooksTellOfStepsTurnsAndTokens) {
  std::vector<StepReport> steps;
  std::vector<TurnReport> turns;
  std::vector<absl::Duration> gaps, frees;
  ToyConfig config;
  config.hooks.on_step = [&steps](const StepReport& report) { steps.push_back(report); };
  config.hooks.on_turn = [&turns](const TurnReport& report) { turns.push_back(report); };
  config.hooks.on_inter_token = [&gaps](absl::Duration gap) { gaps.push_back(gap); };
  config.hooks.on_cancel_to_free = [&frees](absl::Duration time) { frees.push_back(time); };
  ToyCore toy(config);
  toy.control().on_step = [&toy](const StepBatch&) { toy.clock().Advance(absl::Milliseconds(2)); };
  auto request = Request("a", {kBos, 5, 6}, 4, Sink());
  request->ignore_eos = true;
  const TurnRecord record = toy.Run(std::move(request));
  ASSERT_EQ(steps.size(), 4);
  EXPECT_EQ(steps[0].prefill_rows, 3);
  EXPECT_EQ(steps[1].decode_rows, 1);
  EXPECT_EQ(steps[1].segments, 1);
  EXPECT_EQ(steps[1].total, absl::Milliseconds(2));
  ASSERT_EQ(turns.size(), 1);
  EXPECT_EQ(turns[0].code, absl::StatusCode::kOk);
  EXPECT_EQ(turns[0].reason, FinishReason::kLength);
  EXPECT_EQ(turns[0].time_to_first_token, absl::Milliseconds(2));
  EXPECT_EQ(turns[0].total, absl::Milliseconds(8));
  EXPECT_EQ(turns[0].finished.prefill_time, absl::Milliseconds(2));
  EXPECT_EQ(turns[0].finished.decode_time, absl::Milliseconds(6));
  EXPECT_EQ(gaps, std::vector<absl::Duration>(3, absl::Milliseconds(2)));

  ASSERT_TRUE(toy.core().Submit(Decoder(1, 100, Sink())).ok());
  for (int32_t i = 0; i < 3; ++i) toy.engine().RunOnce();
  toy.core().Cancel({}, "decoder1");
  toy.clock().Advance(absl::Milliseconds(3));
  toy.Settle();
  EXPECT_EQ(frees, std::vector<absl::Duration>{absl::Milliseconds(3)});
  EXPECT_EQ(turns[1].reason, FinishReason::kCancelled);

  auto late = Decoder(2, 1, Sink());
  late->deadline = toy.clock().Now();
  toy.Run(std::move(late));
  EXPECT_EQ(turns[2].code, absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(turns[0].started);
  EXPECT_TRUE(turns[1].started);
  EXPECT_FALSE(turns[2].started);
}

TEST(StatusTest, CountsTheKeptSessions) {
  ToyConfig config;
  config.max_batch_sessions = 2;
  ToyCore toy(config);
  const auto status = [&toy] { return toy.core().Status(); };
  auto tell = Request("tell", {kBos, 5, 6}, 0, Sink());
  tell->keep_session = true;
  const std::string id = toy.Run(std::move(tell)).started->session_id;
  toy.core().CreateSession({}, [](const absl::StatusOr<SessionInfo>&) {});
  for (int32_t i = 0; i < 2; ++i) ASSERT_TRUE(toy.core().Submit(Decoder(i, 100, Sink())).ok());
  toy.engine().RunOnce();
  ASSERT_EQ(status().running, 2);
  EXPECT_EQ(status().sessions, 2);
  EXPECT_EQ(status().sessions_with_state, 1) << "those that end with their turns are not counted";
  auto next = Request("next", {5}, 1, Sink());
  next->session_id = id;
  ASSERT_TRUE(toy.core().Submit(std::move(next)).ok());
  toy.engine().RunOnce();
  ASSERT_EQ(status().waiting, 1);
  EXPECT_EQ(status().sessions_with_state, 1) << "a turn waits on it: its state is there as before";
}

TEST(FairnessTest, ALowPriorityIsNotStarvedByAStreamOfHigherOnes) {
  ToyConfig config;
  config.ops.max_segments = config.max_batch_sessions = 1;
  config.priority_aging = absl::Seconds(1);
  ToyCore toy(config);
  const auto low = Sink();
  int32_t rounds = 0;
  for (; !low->over() && rounds < 1000; ++rounds) {
    auto high = Request(absl::StrCat("high", rounds), {kBos, 5}, 3, Sink());
    high->priority = 5;
    ASSERT_TRUE(toy.core().Submit(std::move(high)).ok());
    if (rounds == 3) {
      ASSERT_TRUE(toy.core().Submit(Request("low", {kBos, 6}, 3, low)).ok());
    }
    for (int32_t i = 0; i < 2; ++i) toy.engine().RunOnce();
    toy.emitter().RunOnce();
    toy.clock().Advance(absl::Milliseconds(100));
  }
  EXPECT_TRUE(low->over());
  EXPECT_GT(rounds, 50) << "five priorities are five seconds";
}

TEST(FairnessTest, AFewStreamsGetTheirShareBesideManyOfOnePrincipal) {
  ToyConfig config;
  config.ops.max_segments = config.max_batch_sessions = 8;
  config.state_pages = 400;
  ToyCore toy(config);
  for (int32_t i = 0; i < 60; ++i) {
    auto request = Request(absl::StrCat("many", i), {kBos, 2 + i}, 40, Sink());
    request->ignore_eos = true;
    request->principal.name = "many";
    ASSERT_TRUE(toy.core().Submit(std::move(request)).ok());
  }
  for (int32_t i = 0; i < 20; ++i) toy.engine().RunOnce();
  std::vector<std::shared_ptr<RecordingSink>> few;
  for (int32_t i = 0; i < 3; ++i) {
    few.push_back(Sink());
    auto request = Request(absl::StrCat("few", i), {kBos, 70 + i}, 40, few.back());
    request->ignore_eos = true;
    request->principal.name = absl::StrCat("few", i);
    ASSERT_TRUE(toy.core().Submit(std::move(request)).ok());
  }
  const int64_t start = toy.control().steps;
  while (!few[0]->over() || !few[1]->over() || !few[2]->over()) {
    toy.engine().RunOnce();
    toy.emitter().RunOnce();
  }
  // They get the next three places that become free, whatever waited before them.
  EXPECT_LE(toy.control().steps - start, 100);
}

// A turn that loses its state to one of higher priority computes it again; RecordingSink checks what it is
// told of that.
class PreemptedTest : public testing::Test {
 protected:
  static ToyConfig Config() {
    ToyConfig config;
    config.ops.max_rows = 16;
    config.state_pages = 6;
    config.max_context = 384;
    config.max_batch_sessions = 2;
    return config;
  }

  // Runs `low` for `rounds` rounds of the engine, then one that needs all pages, then both to their ends.
  TurnRecord Preempt(std::unique_ptr<TurnRequest> low, int32_t rounds) {
    const auto sink = std::static_pointer_cast<RecordingSink>(low->sink);
    EXPECT_TRUE(toy_.core().Submit(std::move(low)).ok());
    for (int32_t i = 0; i < rounds; ++i) {
      toy_.engine().RunOnce();
      toy_.emitter().RunOnce();
    }
    EXPECT_FALSE(sink->record().progress.empty());
    auto high = Request("high", std::vector<int32_t>(350, 7), 1, Sink());
    high->priority = 1;
    toy_.Run(std::move(high));
    EXPECT_EQ(toy_.core().Status().preemptions, 1);
    EXPECT_THAT(sink->record().broken, testing::IsEmpty());
    return sink->record();
  }

  ToyCore toy_{Config()};
};

TEST_F(PreemptedTest, WhileItPrefillsProgressStartsAgain) {
  auto tell = Request("tell", std::vector<int32_t>(150, 5), 0, Sink());
  tell->keep_session = true;
  auto low = Request("low", std::vector<int32_t>(100, 6), 1, Sink());
  low->session_id = toy_.Run(std::move(tell)).started->session_id;
  const TurnRecord record = Preempt(std::move(low), 3);
  ASSERT_TRUE(record.finished);
  EXPECT_EQ(record.progress.front().tokens_total, 100);
  EXPECT_EQ(record.progress.back().tokens_total, 251) << "with BOS and all that was lost";
}

TEST_F(PreemptedTest, WhileItDecodesThereIsNoMoreProgress) {
  auto low = Request("low", std::vector<int32_t>(100, 6), 20, Sink());
  low->ignore_eos = true;
  const TurnRecord record = Preempt(std::move(low), 12);
  ASSERT_TRUE(record.finished);
  EXPECT_EQ(record.samples[0].tokens.size(), 20);
}

}  // namespace
}  // namespace sessa::toy
