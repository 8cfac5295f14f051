// Whole runs against a fake server in this process.
#include "loadtest/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "loadtest/prompts.h"
#include "tests/client/fake_server.h"

namespace sessa {
namespace {

Scenario Turns(int64_t max_turns) {
  Scenario s;
  s.concurrency = 4;
  s.max_turns = max_turns;
  s.turns = *Distribution::Parse("1");
  s.prompt_tokens = *Distribution::Parse("8");
  s.generated_tokens = *Distribution::Parse("5");
  s.grace = absl::Seconds(30);
  return s;
}

class RunnerTest : public ::testing::Test {
 protected:
  Result Run(const Scenario& scenario) {
    EXPECT_TRUE(scenario.Validate().ok()) << scenario.Validate();
    auto result = RunScenario(scenario, server_.address(), &stops_);
    EXPECT_TRUE(result.ok()) << result.status();
    return *std::move(result);
  }
  FakeServer server_;
  std::atomic<int> stops_ = 0;
};

TEST_F(RunnerTest, EveryTurnIsCountedOnce) {
  const Result r = Run(Turns(50));
  EXPECT_EQ(server_.requests().size(), 50u);
  EXPECT_EQ(r.turns, 50u);
  EXPECT_EQ(r.failed_turns, 0u);
  EXPECT_EQ(r.outcomes.at("OK"), 50u);
  EXPECT_EQ(r.finish_reasons.at("FINISH_REASON_LENGTH"), 50u);
  EXPECT_EQ(r.generated_tokens, 250u);
  EXPECT_EQ(r.prompt_tokens, 400u);
  EXPECT_EQ(r.first_token.count(), 50u);
  EXPECT_EQ(r.gap.count(), 200u);
  EXPECT_EQ(r.whole.count(), 50u);
  EXPECT_EQ(r.model.name(), "fake");
}

TEST_F(RunnerTest, SeveralThreadsAndChannelsShareTheTurns) {
  Scenario s = Turns(60);
  s.threads = 2;
  s.channels = 3;
  EXPECT_EQ(Run(s).turns, 60u);
}

TEST_F(RunnerTest, SessionsComeBackAndAreDeletedInTheEnd) {
  Scenario s = Turns(30);
  s.turns = *Distribution::Parse("3");
  s.think_time = *Distribution::Parse("0.001");
  EXPECT_EQ(Run(s).failed_turns, 0u);
  std::set<std::string> returned;
  for (const auto& request : server_.requests()) {
    EXPECT_TRUE(request.keep_session());
    if (!request.session_id().empty()) returned.insert(request.session_id());
  }
  EXPECT_GE(returned.size(), 7u) << "30 turns in sessions of 3, 4 users at a time";
  EXPECT_TRUE(server_.sessions().empty());
}

TEST_F(RunnerTest, AnOpenLoopArrivesWithoutWaiting) {
  Scenario s = Turns(40);
  s.concurrency = 0;
  s.rate = 2000;
  EXPECT_EQ(Run(s).turns, 40u);
}

TEST_F(RunnerTest, RefusedTurnsAreFailuresByCodeAndReason) {
  Scenario s = Turns(6);
  s.text_prompts = true;
  s.texts = {"error:queue"};
  s.prompt_tokens = *Distribution::Parse("1");
  const Result r = Run(s);
  EXPECT_EQ(r.failed_turns, 6u);
  EXPECT_EQ(r.outcomes.at("RESOURCE_EXHAUSTED/QUEUE_FULL"), 6u);
}

TEST_F(RunnerTest, TurnsThatWereBrokenOffInOrderAreFailures) {
  for (const char* reason : {"CANCELLED", "DEADLINE", "DRAINED", "INTERRUPTED", "ERROR"}) {
    Scenario s = Turns(3);
    s.text_prompts = true;
    s.texts = {absl::StrCat("reason:", reason)};
    s.prompt_tokens = *Distribution::Parse("1");
    const Result r = Run(s);
    EXPECT_EQ(r.failed_turns, 3u) << reason;
    EXPECT_EQ(r.outcomes.at(absl::StrCat("OK/", reason)), 3u);
    EXPECT_EQ(r.whole.count(), 0u) << "they say nothing of how long a turn takes";
  }
}

TEST_F(RunnerTest, ATurnThatFillsTheContextIsNoFailure) {
  Scenario s = Turns(3);
  s.text_prompts = true;
  s.texts = {"reason:CONTEXT_FULL"};
  s.prompt_tokens = *Distribution::Parse("1");
  EXPECT_EQ(Run(s).outcomes.at("OK"), 3u);
}

TEST_F(RunnerTest, CancelledTurnsAreNoFailures) {
  Scenario s = Turns(20);
  s.cancel_fraction = 1;
  s.generated_tokens = *Distribution::Parse("2000");
  const Result r = Run(s);
  EXPECT_EQ(r.turns, 20u);
  EXPECT_EQ(r.failed_turns, 0u);
  EXPECT_GT(r.outcomes.at("cancelled by the scenario"), 0u);
}

TEST_F(RunnerTest, StopEndsARunEarly) {
  stops_ = 1;
  Scenario s = Turns(1000);
  s.duration = absl::Hours(1);
  const Result r = Run(s);
  EXPECT_EQ(r.turns, 0u);
  EXPECT_EQ(r.measured_seconds, 0) << "and its window with it";
}

// The grace would let them run for ever.
TEST_F(RunnerTest, ASecondStopCancelsWhatRuns) {
  Scenario s = Turns(1000);
  s.text_prompts = true;
  s.texts = {"wait"};
  s.grace = absl::InfiniteDuration();
  std::thread user([this] {
    server_.WaitForTurns(4);
    stops_ = 1;
    stops_ = 2;
  });
  const Result r = Run(s);
  user.join();
  EXPECT_EQ(r.turns, 4u);
  EXPECT_EQ(r.outcomes.at("CANCELLED"), 4u);
}

TEST_F(RunnerTest, RatesAreOfTheWholeWindowHoweverLittleHappensInIt) {
  Scenario s = Turns(0);
  s.duration = absl::Milliseconds(200);
  s.turns = *Distribution::Parse("2");
  s.think_time = *Distribution::Parse("3600");
  const Result r = Run(s);
  EXPECT_EQ(r.turns, 4u);
  EXPECT_DOUBLE_EQ(r.measured_seconds, 0.2);
}

TEST_F(RunnerTest, WithoutAnEndTheSeriesHasStepsToo) {
  Scenario s = Turns(10);
  s.duration = absl::InfiniteDuration();
  const Result r = Run(s);
  EXPECT_EQ(r.turns, 10u);
  EXPECT_EQ(r.step_seconds, 0.5);
  EXPECT_TRUE(std::isfinite(r.measured_seconds));
}

TEST_F(RunnerTest, TheSameSeedSendsTheSamePrompts) {
  Scenario s = Turns(5);
  s.concurrency = 1;
  s.prompt_tokens = *Distribution::Parse("uniform:3:30");
  Run(s);
  Run(s);
  const auto requests = server_.requests();
  ASSERT_EQ(requests.size(), 10u);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(requests[i].SerializeAsString(), requests[i + 5].SerializeAsString());
}

TEST(Runner, NobodyThereIsUnavailable) {
  const std::atomic<int> stops = 0;
  EXPECT_EQ(RunScenario(Turns(1), "127.0.0.1:1", &stops).status().code(), absl::StatusCode::kUnavailable);
}

TEST(Scenario, RefusesNonsenseNamingTheFlag) {
  Scenario s = Turns(1);
  s.rate = 1;
  EXPECT_THAT(s.Validate().message(), ::testing::HasSubstr("--rate"));
  s = Turns(0);
  EXPECT_THAT(s.Validate().message(), ::testing::HasSubstr("--duration"));
  s = Turns(1);
  s.threads = 5;
  EXPECT_THAT(s.Validate().message(), ::testing::HasSubstr("--threads"));
  s = Turns(1);
  s.cancel_fraction = 1.5;
  EXPECT_THAT(s.Validate().message(), ::testing::HasSubstr("--cancel_fraction"));
  s = Turns(1);
  s.warm_up = absl::InfiniteDuration();
  EXPECT_THAT(s.Validate().message(), ::testing::HasSubstr("--warm_up"));
  s = Turns(1);
  s.turn_timeout = absl::ZeroDuration();
  EXPECT_THAT(s.Validate().message(), ::testing::HasSubstr("--turn_timeout"));
}

TEST(Prompts, RandomIdsAvoidBosAndEos) {
  v1::Model model;
  model.mutable_shape()->set_vocab_size(5);
  model.set_bos_token_id(1);
  model.set_eos_token_id(2);
  Random random(1);
  v1::GenerateRequest request;
  SetRandomIds(model, 200, &random, &request);
  EXPECT_EQ(request.token_ids().ids_size(), 200);
  for (int id : request.token_ids().ids()) EXPECT_TRUE(id == 0 || id == 3 || id == 4) << id;
}

TEST(Prompts, TextHasAboutTheLength) {
  Random random(1);
  v1::GenerateRequest request;
  SetRandomText(BuiltInSentences(), 100, &random, &request);
  EXPECT_GE(request.text().size(), 300u);
  EXPECT_LE(request.text().size(), 340u);
  EXPECT_EQ(request.text().back(), '\n');
}

}  // namespace
}  // namespace sessa
