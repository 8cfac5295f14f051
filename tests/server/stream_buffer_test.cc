#include "server/stream_buffer.h"

#include <gtest/gtest.h>

namespace sessa {
namespace {

DeltaEvent Delta(int32_t index, int64_t position, int32_t token, const std::string& text) {
  return {.index = index, .position = position, .token_ids = {token}, .text = text};
}

TEST(StreamBufferTest, JoinsDeltasOfASample) {
  StreamBuffer buffer(nullptr);
  buffer.Push(Delta(0, 10, 1, "a"));
  buffer.Push(Delta(0, 11, 2, "b"));
  buffer.Push(DeltaEvent{.position = 12, .text = "c"});  // held-back text at the end, without a token
  ASSERT_EQ(buffer.messages(), 1);
  const auto message = buffer.Pop();
  EXPECT_EQ(message->delta().position(), 10);
  EXPECT_EQ(message->delta().token_ids_size(), 2);
  EXPECT_EQ(message->delta().text(), "abc");
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.bytes(), 0);
}

TEST(StreamBufferTest, KeepsSamplesApart) {
  StreamBuffer buffer(nullptr);
  for (int position = 0; position < 3; ++position) {
    for (int index = 0; index < 2; ++index) buffer.Push(Delta(index, position, 1, index == 0 ? "a" : "b"));
  }
  ASSERT_EQ(buffer.messages(), 2);
  EXPECT_EQ(buffer.Pop()->delta().text(), "aaa");
  EXPECT_EQ(buffer.Pop()->delta().text(), "bbb");
}

TEST(StreamBufferTest, DoesNotJoinOverAGapOrAnotherMessage) {
  StreamBuffer buffer(nullptr);
  buffer.Push(Delta(0, 0, 1, "a"));
  buffer.Push(Delta(0, 5, 1, "b"));
  buffer.Push(SampleFinishedEvent{.index = 1});
  buffer.Push(Delta(0, 6, 1, "c"));
  EXPECT_EQ(buffer.messages(), 4);
}

TEST(StreamBufferTest, BoundsAJoinedDelta) {
  StreamBuffer buffer(nullptr);
  for (int i = 0; i < 20; ++i) buffer.Push(Delta(0, i, 1, std::string(10'000, 'x')));
  EXPECT_GT(buffer.messages(), 3);
  EXPECT_LT(buffer.messages(), 20);
  EXPECT_GE(buffer.bytes(), 200'000);
}

TEST(StreamBufferTest, OneProgressWaitsAtATime) {
  StreamBuffer buffer(nullptr);
  buffer.Push(ProgressEvent{.tokens_done = 1, .tokens_total = 3});
  buffer.Push(ProgressEvent{.tokens_done = 2, .tokens_total = 3});
  ASSERT_EQ(buffer.messages(), 1);
  EXPECT_EQ(buffer.Pop()->progress().tokens_done(), 2);
}

TEST(StreamBufferTest, ARecycledDeltaIsEmpty) {
  StreamBuffer buffer(nullptr);
  buffer.Push(
      DeltaEvent{.index = 1, .position = 3, .token_ids = {1}, .text = "a", .logprobs = {OutputResult()}});
  buffer.Recycle(buffer.Pop());
  buffer.Push(Delta(0, 0, 2, "b"));
  const auto message = buffer.Pop();
  EXPECT_EQ(message->delta().index(), 0);
  EXPECT_EQ(message->delta().position(), 0);
  EXPECT_EQ(message->delta().text(), "b");
  EXPECT_EQ(message->delta().logprobs_size(), 0);
  ASSERT_EQ(message->delta().token_ids_size(), 1);
  EXPECT_EQ(message->delta().token_ids(0), 2);
}

TEST(StreamBufferTest, FillsEveryField) {
  StreamBuffer buffer(nullptr);
  StartedEvent started{.session_id = "s", .request_id = "r", .seed = 7, .position = 8, .prompt_tokens = 9};
  started.restore = {.tier = Restore::Tier::kRecomputed, .tokens_restored = 1, .tokens_recomputed = 2};
  buffer.Push(started);
  buffer.Push(
      SampleFinishedEvent{.index = 2, .reason = FinishReason::kStop, .stop_matched = "x", .stop_token = 0});
  FinishedEvent finished{.position = 5, .prompt_tokens = 1, .generated_tokens = 2};
  finished.decode_time = absl::Milliseconds(1500);
  buffer.Push(finished);
  const auto first = buffer.Pop();
  EXPECT_EQ(first->started().session_id(), "s");
  EXPECT_EQ(first->started().seed(), 7);
  EXPECT_EQ(first->started().restore().tier(), v1::Restore::TIER_RECOMPUTED);
  EXPECT_EQ(first->started().restore().tokens_recomputed(), 2);
  const auto second = buffer.Pop();
  EXPECT_EQ(second->sample_finished().stop_matched(), "x");
  EXPECT_TRUE(second->sample_finished().has_stop_token_id()) << "token 0 is a token";
  const auto third = buffer.Pop();
  EXPECT_EQ(third->finished().position(), 5);
  EXPECT_EQ(third->finished().usage().generated_tokens(), 2);
  EXPECT_EQ(third->finished().timing().decode().seconds(), 1);
  EXPECT_EQ(third->finished().timing().decode().nanos(), 500'000'000);
}

}  // namespace
}  // namespace sessa
