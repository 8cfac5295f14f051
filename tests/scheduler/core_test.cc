// One turn at a time: what goes in, what comes out.
#include "scheduler/core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/errors.h"
#include "tests/scheduler/toy_core.h"

namespace sessa::toy {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::shared_ptr<RecordingSink> Sink(int32_t n = 1) { return std::make_shared<RecordingSink>(n); }

std::vector<int32_t> Concat(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// A prompt whose first `count` greedy tokens hold no EOS.
std::vector<int32_t> PromptWithoutEos(const ToyCore& toy, int32_t length, int32_t count) {
  for (int32_t first = 2; first < kVocab - 1; ++first) {
    std::vector<int32_t> prompt = {kBos, first};
    while (static_cast<int32_t>(prompt.size()) < length) prompt.push_back(2 + prompt.size() % 50);
    const std::vector<int32_t> tokens = toy.Expected(prompt, count);
    if (std::find(tokens.begin(), tokens.end(), kEos) == tokens.end()) return prompt;
  }
  return {};
}

TEST(CoreTest, GreedyTurnGivesTheModelsTokensAndEndsAtLength) {
  ToyCore toy({});
  const std::vector<int32_t> prompt = PromptWithoutEos(toy, 100, 10);
  const TurnRecord record = toy.Run(Request("r", prompt, 10, Sink()));
  ASSERT_TRUE(record.finished) << *record.error;
  EXPECT_THAT(record.broken, IsEmpty());
  EXPECT_EQ(record.samples[0].tokens, toy.Expected(prompt, 10));
  EXPECT_EQ(record.samples[0].finished->reason, FinishReason::kLength);
  EXPECT_EQ(record.finished->position, 110);
  EXPECT_EQ(record.finished->prompt_tokens, 100);
  EXPECT_EQ(record.finished->generated_tokens, 10);
  EXPECT_EQ(record.started->session_id, "");
  EXPECT_THAT(toy.control().errors, IsEmpty());
  EXPECT_EQ(toy.core().Status().pages_free, toy.core().Status().pages_total);
  EXPECT_EQ(toy.core().Status().generated_tokens, 10);
}

TEST(CoreTest, SessionGoesOnWhereItStopped) {
  ToyCore toy({});
  const std::vector<int32_t> prompt = PromptWithoutEos(toy, 70, 5);
  auto first = Request("a", prompt, 5, Sink());
  first->keep_session = true;
  const TurnRecord one = toy.Run(std::move(first));
  ASSERT_TRUE(one.finished);
  const std::string id = one.started->session_id;
  EXPECT_EQ(id.size(), 32);

  auto second = Request("b", {7, 8, 9}, 3, Sink());
  second->session_id = id;
  second->ignore_eos = true;
  const TurnRecord two = toy.Run(std::move(second));
  ASSERT_TRUE(two.finished);
  const std::vector<int32_t> prefix = Concat(Concat(prompt, toy.Expected(prompt, 5)), {7, 8, 9});
  EXPECT_EQ(two.samples[0].tokens, toy.Expected(prefix, 3));
  EXPECT_EQ(two.started->position, 75);
  EXPECT_EQ(two.started->restore.tier, Restore::Tier::kDevice);
  EXPECT_EQ(two.finished->recomputed_tokens, 0) << "a warm return";
  EXPECT_EQ(two.finished->cached_tokens, 74) << "the last token sampled was never fed";
  EXPECT_EQ(toy.GetSession(id)->position, 81);
}

TEST(CoreTest, EvictedSessionIsComputedAgain) {
  ToyCore toy({});
  const std::vector<int32_t> prompt = PromptWithoutEos(toy, 70, 5);
  auto first = Request("a", prompt, 5, Sink());
  first->keep_session = true;
  const std::string id = toy.Run(std::move(first)).started->session_id;
  toy.clock().Advance(absl::Minutes(11));
  toy.Settle();
  EXPECT_EQ(toy.core().Status().pages_free, toy.core().Status().pages_total);
  EXPECT_EQ(toy.GetSession(id)->cached_tokens, 0);

  auto second = Request("b", {7, 8, 9}, 3, Sink());
  second->session_id = id;
  second->ignore_eos = true;
  const TurnRecord two = toy.Run(std::move(second));
  ASSERT_TRUE(two.finished);
  EXPECT_EQ(two.samples[0].tokens,
            toy.Expected(Concat(Concat(prompt, toy.Expected(prompt, 5)), {7, 8, 9}), 3));
  EXPECT_EQ(two.started->restore.tier, Restore::Tier::kRecomputed);
  EXPECT_EQ(two.started->restore.tokens_recomputed, 75);
  EXPECT_EQ(two.finished->recomputed_tokens, 75) << "the session's length";
}

}  // namespace
}  // namespace sessa::toy
