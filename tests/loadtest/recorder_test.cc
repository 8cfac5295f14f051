#include "loadtest/recorder.h"

#include <gtest/gtest.h>

namespace sessa {
namespace {

const absl::Duration kWarmUp = absl::Seconds(2), kBucket = absl::Seconds(1);

TEST(Recorder, WarmUpStaysOutOfTheFiguresButInTheSeries) {
  Recorder r(kWarmUp, kBucket, 1);
  const absl::Duration start = absl::Seconds(1.5);
  r.OnStart(start, start);
  r.OnPromptDone(absl::Seconds(1.6), 10);
  r.OnFirstToken(start, absl::Seconds(1.6));
  r.OnTokens(start, absl::Seconds(1.6), absl::ZeroDuration(), 1);
  r.OnTokens(start, absl::Seconds(2.5), absl::Seconds(0.9), 1);
  r.OnEnd(start, absl::Seconds(2.6), "OK", false, "LENGTH");
  EXPECT_EQ(r.turns, 0u);
  EXPECT_EQ(r.first_token.count() + r.gap.count() + r.whole.count() + r.late.count(), 0u);
  EXPECT_EQ(r.prompt_tokens, 0u);
  EXPECT_EQ(r.generated_tokens, 1u) << "tokens count by when they came";
  ASSERT_EQ(r.steps().size(), 3u);
  EXPECT_EQ(r.steps()[1].prompt_tokens, 10u);
  EXPECT_EQ(r.steps()[2].ended, 1u);
}

TEST(Recorder, MeasuresFromStartToFirstTokenToEnd) {
  Recorder r(kWarmUp, kBucket, 1);
  const absl::Duration start = absl::Seconds(3);
  r.OnStart(start, start + absl::Milliseconds(2));
  r.OnFirstToken(start, absl::Seconds(3.25));
  r.OnTokens(start, absl::Seconds(3.25), absl::ZeroDuration(), 1);
  r.OnTokens(start, absl::Seconds(3.5), absl::Seconds(0.25), 2);
  r.OnEnd(start, absl::Seconds(4), "OK", false, "LENGTH");
  EXPECT_DOUBLE_EQ(r.first_token.max(), 0.25);
  EXPECT_EQ(r.gap.count(), 1u) << "the first token has no gap";
  EXPECT_DOUBLE_EQ(r.whole.max(), 1);
  EXPECT_DOUBLE_EQ(r.late.max(), 0.002);
  EXPECT_EQ(r.generated_tokens, 3u);
}

TEST(Recorder, TokensAfterTheEndDoNotCount) {
  Recorder r(kWarmUp, kBucket, 1);
  r.until = absl::Seconds(10);
  r.OnTokens(absl::Seconds(9), absl::Seconds(9.9), absl::ZeroDuration(), 1);
  r.OnTokens(absl::Seconds(9), absl::Seconds(10.1), absl::ZeroDuration(), 1);
  EXPECT_EQ(r.generated_tokens, 1u);
}

TEST(Recorder, GapsAfterTheEndDoNotCount) {
  Recorder r(kWarmUp, kBucket, 1);
  r.until = absl::Seconds(10);
  r.OnTokens(absl::Seconds(9), absl::Seconds(9.9), absl::Milliseconds(30), 1);
  r.OnTokens(absl::Seconds(9), absl::Seconds(10.1), absl::Milliseconds(2), 1);
  EXPECT_EQ(r.gap.count(), 1u);
  EXPECT_DOUBLE_EQ(r.gap.max(), 0.03);
}

TEST(Recorder, ATurnBelongsToWhenItShouldHaveBegun) {
  Recorder r(kWarmUp, kBucket, 1);
  r.OnStart(absl::Seconds(1), absl::Seconds(3));
  EXPECT_EQ(r.late.count(), 0u);
  ASSERT_EQ(r.steps().size(), 4u);
  EXPECT_EQ(r.steps()[3].started, 1u) << "it runs from then on";
}

TEST(Recorder, FailedTurnsHaveNoWholeTime) {
  Recorder r(kWarmUp, kBucket, 1);
  r.OnEnd(absl::Seconds(3), absl::Seconds(4), "UNAVAILABLE", true, "");
  EXPECT_EQ(r.failed_turns, 1u);
  EXPECT_EQ(r.whole.count(), 0u);
  EXPECT_EQ(r.outcomes().at("UNAVAILABLE"), 1u);
  EXPECT_TRUE(r.finish_reasons().empty());
}

TEST(Recorder, MergeAddsEverything) {
  Recorder a(kWarmUp, kBucket, 1), b(kWarmUp, kBucket, 2);
  for (Recorder* r : {&a, &b}) {
    r->OnStart(absl::Seconds(3), absl::Seconds(3));
    r->OnFirstToken(absl::Seconds(3), absl::Seconds(3.1));
    r->OnEnd(absl::Seconds(3), absl::Seconds(4), "OK", false, "LENGTH");
  }
  b.OnEnd(absl::Seconds(3), absl::Seconds(7), "UNAVAILABLE", true, "");
  a.Merge(b);
  EXPECT_EQ(a.turns, 3u);
  EXPECT_EQ(a.failed_turns, 1u);
  EXPECT_EQ(a.outcomes().at("OK"), 2u);
  EXPECT_EQ(a.points().size(), 2u);
  EXPECT_EQ(a.last_end, absl::Seconds(7));
  ASSERT_EQ(a.steps().size(), 8u);
  EXPECT_EQ(a.steps()[3].started, 2u);
}

TEST(Recorder, KeepsABoundedChoiceOfPoints) {
  Recorder r(kWarmUp, kBucket, 1);
  double sum = 0;
  for (int i = 0; i < 100000; ++i) r.OnFirstToken(absl::Microseconds(i), absl::Seconds(1));
  EXPECT_EQ(r.points().size(), 1500u);
  for (const auto& point : r.points()) sum += point.at;
  // A uniform choice of [0, 0.1) has mean 0.05; that of 1500 points deviates by 0.1 / sqrt(12 * 1500) =
  // 0.00075.
  EXPECT_NEAR(sum / 1500, 0.05, 5 * 0.00075);
}

}  // namespace
}  // namespace sessa
