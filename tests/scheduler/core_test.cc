// One turn at a time: what goes in, what comes out.
#include "scheduler/core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "runtime/base/errors.h"
#include "tests/scheduler/toy_core.h"

namespace sessa::toy {
namespace {

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
  EXPECT_EQ(record.started->session_id.size(), 32);
  EXPECT_FALSE(toy.GetSession(record.started->session_id).ok()) << "it ended with its turn";
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

TEST(CoreTest, BosOpensASessionUnlessThePromptHasIt) {
  ToyCore toy({});
  EXPECT_EQ(toy.Run(Request("a", {5, 6}, 0, Sink())).finished->position, 3);
  EXPECT_EQ(toy.Run(Request("b", {kBos, 5, 6}, 0, Sink())).finished->position, 3);
  auto text = Request("c", {}, 0, Sink());
  text->prompt = "abc";
  text->keep_session = true;
  const TurnRecord opened = toy.Run(std::move(text));
  EXPECT_EQ(opened.finished->position, 4);
  auto more = Request("d", {}, 0, Sink());
  more->prompt = "abc";
  more->session_id = opened.started->session_id;
  EXPECT_EQ(toy.Run(std::move(more)).finished->position, 7) << "no BOS in the middle";
  ToyConfig config;
  config.bos = -1;
  ToyCore without(config);
  EXPECT_EQ(without.Run(Request("e", {5, 6}, 0, Sink())).finished->position, 2);
}

TEST(CoreTest, ZeroTokensOnlyAppends) {
  ToyCore toy({});
  auto request = Request("a", {kBos, 5, 6}, 0, Sink());
  request->keep_session = true;
  const TurnRecord record = toy.Run(std::move(request));
  EXPECT_THAT(record.samples[0].tokens, IsEmpty());
  EXPECT_EQ(record.samples[0].finished->reason, FinishReason::kLength);
  EXPECT_EQ(toy.GetSession(record.started->session_id)->cached_tokens, 3);
  // An empty prompt goes on from there.
  auto more = Request("b", {}, 2, Sink());
  more->session_id = record.started->session_id;
  more->ignore_eos = true;
  EXPECT_EQ(toy.Run(std::move(more)).samples[0].tokens, toy.Expected({kBos, 5, 6}, 2));
}

TEST(CoreTest, EosAndStopTokensAreRecordedButNotAppended) {
  ToyCore toy({});
  const std::vector<int32_t> prompt = PromptWithoutEos(toy, 20, 6);
  const std::vector<int32_t> tokens = toy.Expected(prompt, 6);
  auto request = Request("a", prompt, 100, Sink());
  request->keep_session = true;
  request->stop_token_ids = {tokens[5]};
  const TurnRecord record = toy.Run(std::move(request));
  EXPECT_EQ(record.samples[0].finished->reason, FinishReason::kStop);
  EXPECT_EQ(record.samples[0].finished->stop_token, tokens[5]);
  const int64_t kept = static_cast<int64_t>(record.samples[0].tokens.size());
  EXPECT_LE(kept, 5);
  EXPECT_EQ(toy.GetSession(record.started->session_id)->position, 20 + kept);
}

TEST(CoreTest, ContextLimitEndsTheTurn) {
  ToyConfig config;
  config.max_context = 30;
  ToyCore toy(config);
  const std::vector<int32_t> prompt = PromptWithoutEos(toy, 20, 10);
  TurnRecord record = toy.Run(Request("a", prompt, 100, Sink()));
  EXPECT_EQ(record.samples[0].finished->reason, FinishReason::kContextFull);
  EXPECT_EQ(record.samples[0].tokens.size(), 10);
  record = toy.Run(Request("b", PromptWithoutEos(toy, 30, 1), 100, Sink()));
  EXPECT_EQ(record.samples[0].finished->reason, FinishReason::kContextFull) << "a prompt that fills it";
  EXPECT_EQ(record.finished->position, 30);
}

// A prompt whose greedy text has a letter at byte 4 that is not before it; empty when `first` gives none.
std::vector<int32_t> PromptForStop(ToyCore& toy, int32_t first, std::string* text) {
  const std::vector<int32_t> prompt = {kBos, first};
  text->clear();
  for (int32_t token : toy.Expected(prompt, 8)) {
    if (token == kEos || token == 54 || token == 55) return {};  // whole letters only
    absl::StrAppend(text, toy.tokenizer().TokenBytes(token));
  }
  return text->find(text->substr(4, 1)) == 4 ? prompt : std::vector<int32_t>();
}

TEST(CoreTest, StopStringCutsTheSessionWhereItEnds) {
  for (const int32_t in_flight : {1, 2}) {
    ToyConfig config;
    config.ops.steps_in_flight = in_flight;
    ToyCore toy(config);
    std::string text;
    std::vector<int32_t> prompt;
    for (int32_t first = 2; prompt.empty() && first < 90; ++first) prompt = PromptForStop(toy, first, &text);
    ASSERT_FALSE(prompt.empty());
    for (const bool include_stop : {false, true}) {
      auto request = Request(include_stop ? "a" : "b", prompt, 100, Sink());
      request->keep_session = true;
      request->stop = {text.substr(4, 1)};
      request->include_stop = include_stop;
      const TurnRecord record = toy.Run(std::move(request));
      ASSERT_TRUE(record.finished);
      EXPECT_EQ(record.samples[0].tokens, toy.Expected(prompt, 5));
      EXPECT_EQ(record.samples[0].text, text.substr(0, include_stop ? 5 : 4));
      EXPECT_EQ(record.samples[0].finished->stop_matched, text.substr(4, 1));
      EXPECT_EQ(record.samples[0].finished->reason, FinishReason::kStop);
      EXPECT_EQ(record.finished->position, 7);
      EXPECT_EQ(record.finished->generated_tokens, 5);
      EXPECT_EQ(toy.GetSession(record.started->session_id)->position, 7);
    }
  }
}

TEST(CoreTest, WhatWasComputedBeyondTheEndIsDiscarded) {
  ToyConfig config;
  config.ops.steps_in_flight = 2;
  ToyCore toy(config);
  const std::vector<int32_t> prompt = PromptWithoutEos(toy, 20, 6);
  toy.Run(Request("a", prompt, 6, Sink()));
  EXPECT_EQ(toy.core().Status().discarded_tokens, 0) << "an end that is known is not run past";
  auto request = Request("b", prompt, 100, Sink());
  request->stop_token_ids = {toy.Expected(prompt, 4)[3]};
  const TurnRecord record = toy.Run(std::move(request));
  EXPECT_EQ(toy.core().Status().discarded_tokens, 1);
  EXPECT_EQ(toy.core().Status().generated_tokens, 6 + record.samples[0].tokens.size());
  EXPECT_EQ(toy.core().Status().pages_free, toy.core().Status().pages_total);
}

TEST(CoreTest, SamplesShareThePromptAndDifferInTheirDraws) {
  ToyCore toy({});
  std::vector<int32_t> prompt = {kBos};
  for (int32_t i = 0; i < 149; ++i) prompt.push_back(2 + i % 90);
  auto request = Request("a", prompt, 5, Sink(3));
  request->n = 3;
  request->sampling.temperature = 1;
  request->ignore_eos = true;
  const TurnRecord record = toy.Run(std::move(request));
  ASSERT_TRUE(record.finished);
  EXPECT_EQ(record.finished->generated_tokens, 15);
  EXPECT_NE(record.samples[0].tokens, record.samples[1].tokens);
  EXPECT_NE(record.samples[1].tokens, record.samples[2].tokens);
  EXPECT_EQ(toy.core().Status().prompt_tokens, 150) << "the prompt is computed once";
  EXPECT_EQ(toy.core().Status().recomputed_tokens, 0);
  for (uint32_t i = 0; i < 3; ++i) {  // each is what it would be alone
    Oracle oracle(false);
    for (int32_t token : prompt) oracle.Append(token);
    SampleParams params;
    params.sample_index = i;
    for (int32_t k = 0; k < 5; ++k) {
      const int32_t token = oracle.Next(&params, k).token;
      EXPECT_EQ(record.samples[i].tokens[k], token);
      oracle.Append(token);
    }
  }
}

TEST(CoreTest, PromptLogprobsCoverThePromptOnce) {
  ToyConfig config;
  config.ops.max_rows = 16;
  config.ops.max_output_rows = 4;  // the head runs in slices
  ToyCore toy(config);
  const std::vector<int32_t> prompt = PromptWithoutEos(toy, 100, 2);
  auto request = Request("a", prompt, 2, Sink());
  request->prompt_logprobs = 0;
  request->keep_session = true;
  const TurnRecord record = toy.Run(std::move(request));
  ASSERT_EQ(record.prompt_logprobs.size(), 100);
  EXPECT_TRUE(std::isnan(record.prompt_logprobs[0].logprob));
  Oracle oracle(false);
  for (int32_t i = 0; i < 100; ++i) {
    EXPECT_EQ(record.prompt_logprobs[i].token, prompt[i]);
    SampleParams params;
    if (i > 0) {
      EXPECT_EQ(record.prompt_logprobs[i].logprob, oracle.Next(&params, 0, prompt[i]).logprob) << i;
    }
    oracle.Append(prompt[i]);
  }
  // In a later turn the first token of the prompt has a log-probability, too.
  auto more = Request("b", {9, 8}, 0, Sink());
  more->session_id = record.started->session_id;
  more->prompt_logprobs = 0;
  const TurnRecord second = toy.Run(std::move(more));
  ASSERT_EQ(second.prompt_logprobs.size(), 2);
  EXPECT_FALSE(std::isnan(second.prompt_logprobs[0].logprob));
}

TEST(CoreTest, ProgressOfALongPrefill) {
  ToyConfig config;
  config.ops.max_rows = 16;
  ToyCore toy(config);
  const TurnRecord record = toy.Run(Request("a", PromptWithoutEos(toy, 40, 1), 1, Sink()));
  ASSERT_EQ(record.progress.size(), 2);
  EXPECT_EQ(record.progress[0].tokens_done, 16);
  EXPECT_EQ(record.progress[1].tokens_done, 32);
  EXPECT_EQ(record.progress[1].tokens_total, 40);
}

}  // namespace
}  // namespace sessa::toy
