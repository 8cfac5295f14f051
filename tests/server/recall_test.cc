// The embedded model through the whole daemon: what a session was told it recalls, however it was told.
// SESSA_FULL=1 tries every split; otherwise a few of each prompt.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <thread>

#include "nlohmann/json.hpp"
#include "runtime/base/clock.h"
#include "tests/server/test_daemon.h"

namespace sessa {
namespace {

struct Prompt {
  std::string text;
  std::vector<int32_t> ids;  // of the text, BOS in front
  std::vector<int32_t> answer_ids;
  std::string answer;
};

std::vector<Prompt> ReadPrompts() {
  std::ifstream file("tests/golden/recall_prompts.json");
  std::vector<Prompt> prompts;
  for (const auto& entry : nlohmann::json::parse(file)) {
    prompts.push_back({entry.at("prompt"), entry.at("prompt_token_ids"), entry.at("greedy_token_ids"),
                       entry.at("greedy_text")});
  }
  return prompts;
}

class RecallTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    telemetry_ = new Telemetry;
    auto model = LoadServedModel(TestOptions(), telemetry_->Hooks(), Clock::Real());
    ASSERT_TRUE(model.ok()) << model.status();
    auto daemon = Daemon::Start(TestOptions(), *std::move(model), telemetry_);
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = daemon->release();
    client_ = new Client(daemon_->grpc_address());
    prompts_ = new std::vector<Prompt>(ReadPrompts());
    ASSERT_EQ(prompts_->size(), 28);
  }
  static void TearDownTestSuite() {
    delete prompts_;
    delete client_;
    delete daemon_;
    delete telemetry_;
  }

  // Whatever the test did, no page is lost.
  void TearDown() override {
    EXPECT_TRUE(Eventually([] { return daemon_->core().Status().running == 0; }));
    EXPECT_EQ(daemon_->core().Status().orphan_pages, 0);
  }

  static bool Full() { return std::getenv("SESSA_FULL") != nullptr; }

  static v1::GenerateRequest Ask(const Prompt& prompt) {
    v1::GenerateRequest request;
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_max_tokens(static_cast<int32_t>(prompt.answer_ids.size()));
    return request;
  }
  static void SetIds(const std::vector<int32_t>& ids, size_t begin, size_t end,
                     v1::GenerateRequest* request) {
    request->mutable_token_ids()->clear_ids();
    for (size_t i = begin; i < end; ++i) request->mutable_token_ids()->add_ids(ids[i]);
  }
  // Appends the first turn to a new session and returns its ID.
  static std::string Tell(v1::GenerateRequest request) {
    request.set_keep_session(true);
    request.mutable_sampling()->set_max_tokens(0);
    const Generated told = Generate(client_->inference.get(), request);
    EXPECT_TRUE(told.status.ok()) << told.status.error_message();
    EXPECT_TRUE(told.token_ids.empty());
    EXPECT_EQ(told.finished, 1);
    return told.session_id;
  }
  static void Forget(const std::string& session) {
    grpc::ClientContext context;
    v1::DeleteSessionRequest request;
    v1::DeleteSessionResponse response;
    request.set_session_id(session);
    EXPECT_TRUE(client_->sessions->DeleteSession(&context, request, &response).ok());
  }
  static void ExpectAnswer(const Generated& result, const Prompt& prompt) {
    ASSERT_TRUE(result.status.ok()) << result.status.error_message();
    EXPECT_EQ(result.token_ids, prompt.answer_ids) << result.text;
    EXPECT_EQ(result.text, prompt.answer);
    EXPECT_EQ(result.finished, 1);
  }

  static Telemetry* telemetry_;
  static Daemon* daemon_;
  static Client* client_;
  static std::vector<Prompt>* prompts_;
};

Telemetry* RecallTest::telemetry_ = nullptr;
Daemon* RecallTest::daemon_ = nullptr;
Client* RecallTest::client_ = nullptr;
std::vector<Prompt>* RecallTest::prompts_ = nullptr;

TEST_F(RecallTest, InOneTurnAsText) {
  for (const Prompt& prompt : *prompts_) {
    v1::GenerateRequest request = Ask(prompt);
    request.set_text(prompt.text);
    const Generated result = Generate(client_->inference.get(), request);
    ExpectAnswer(result, prompt);
    EXPECT_EQ(result.messages.at(0).started().prompt_tokens(), prompt.ids.size()) << "BOS in front";
  }
}

TEST_F(RecallTest, InOneTurnAsTokenIds) {
  for (const Prompt& prompt : *prompts_) {
    v1::GenerateRequest request = Ask(prompt);
    SetIds(prompt.ids, 0, prompt.ids.size(), &request);
    ExpectAnswer(Generate(client_->inference.get(), request), prompt);
  }
}

TEST_F(RecallTest, SplitAtAnyToken) {
  for (const Prompt& prompt : *prompts_) {
    const bool every = Full() || prompt.ids.size() == 80;  // the shortest ones
    for (size_t split = 1; split < prompt.ids.size(); ++split) {
      // Both sides of the first page border, and two more.
      const bool tried = every || split == 63 || split == 64 || split == 65 ||
                         split == prompt.ids.size() - 1 || split == prompt.ids.size() / 2;
      if (!tried) continue;
      SCOPED_TRACE(testing::Message() << "split at " << split << " of " << prompt.ids.size());
      v1::GenerateRequest first = Ask(prompt), second = Ask(prompt);
      SetIds(prompt.ids, 0, split, &first);
      second.set_session_id(Tell(first));
      SetIds(prompt.ids, split, prompt.ids.size(), &second);
      second.set_expected_position(static_cast<int64_t>(split));
      ExpectAnswer(Generate(client_->inference.get(), second), prompt);
      Forget(second.session_id());
    }
  }
}

TEST_F(RecallTest, SplitAsTextBeforeAnyNewline) {
  for (const Prompt& prompt : *prompts_) {
    int tried = 0;
    for (size_t split = prompt.text.find('\n'); split != std::string::npos;
         split = prompt.text.find('\n', split + 1)) {
      if (!Full() && prompt.ids.size() > 200 && ++tried > 3) break;
      SCOPED_TRACE(testing::Message() << "split at byte " << split);
      v1::GenerateRequest first = Ask(prompt), second = Ask(prompt);
      first.set_text(prompt.text.substr(0, split));
      second.set_session_id(Tell(first));
      second.set_text(prompt.text.substr(split));
      ExpectAnswer(Generate(client_->inference.get(), second), prompt);
      Forget(second.session_id());
    }
  }
}

TEST_F(RecallTest, InABatchOfSixteenWithStrangers) {
  for (size_t first = 0; first < prompts_->size(); first += 8) {
    std::vector<std::thread> threads;
    for (size_t i = first; i < std::min(first + 8, prompts_->size()); ++i) {
      threads.emplace_back([prompt = (*prompts_)[i]] {
        v1::GenerateRequest request = Ask(prompt);
        request.set_text(prompt.text);
        ExpectAnswer(Generate(client_->inference.get(), request), prompt);
      });
      threads.emplace_back([i] {  // a stranger: sampled at random, to the same length of time or so
        v1::GenerateRequest request;
        request.set_text("Mia went to the kitchen. Tom picked up the lamp.");
        request.mutable_sampling()->set_max_tokens(40);
        request.mutable_sampling()->set_seed(i);
        EXPECT_TRUE(Generate(client_->inference.get(), request).status.ok());
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

TEST_F(RecallTest, StopsAtTheNewlineAndGoesOn) {
  v1::GenerateRequest request;
  request.set_keep_session(true);
  request.set_text(
      "Mia went to the kitchen. Tom picked up the lamp. Mia put the key in the garden.\nQ: Where is "
      "Mia?\nA:");
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->add_stop("\n");
  const Generated one = Generate(client_->inference.get(), request);
  ASSERT_TRUE(one.status.ok()) << one.status.error_message();
  EXPECT_EQ(one.text, " Mia is in the kitchen.");
  ASSERT_GE(one.messages.size(), 2);
  const v1::SampleFinished& end = one.messages[one.messages.size() - 2].sample_finished();
  EXPECT_EQ(end.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(end.stop_matched(), "\n");

  request.set_session_id(one.session_id);
  request.set_text("Q: Where is the key?\nA:");
  const Generated two = Generate(client_->inference.get(), request);
  ASSERT_TRUE(two.status.ok()) << two.status.error_message();
  EXPECT_EQ(two.text, " The key is in the garden.");
  EXPECT_GT(two.messages.at(0).started().cached_tokens(), 0);
  EXPECT_EQ(two.messages.back().finished().usage().recomputed_tokens(), 0) << "a warm return";
  Forget(one.session_id);
}

TEST_F(RecallTest, ABusySessionIsAborted) {
  v1::GenerateRequest request;
  request.set_keep_session(true);
  request.set_text("Mia went to the kitchen.");
  request.mutable_sampling()->set_max_tokens(1500);
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  request.set_session_id(message.started().session_id());
  const grpc::Status busy = Generate(client_->inference.get(), request).status;
  ExpectError(busy, grpc::StatusCode::ABORTED, Details(busy).info.reason());
  context.TryCancel();
  reader->Finish();
  Forget(request.session_id());
}

TEST_F(RecallTest, SeedsRepeatAndSamplesDiffer) {
  v1::GenerateRequest request;
  request.set_text("Mia went to the");
  request.mutable_sampling()->set_max_tokens(20);
  request.mutable_sampling()->set_seed(7);
  request.mutable_sampling()->set_n(3);
  request.mutable_sampling()->set_logprobs(2);
  const Generated one = Generate(client_->inference.get(), request);
  const Generated two = Generate(client_->inference.get(), request);
  ASSERT_TRUE(one.status.ok()) << one.status.error_message();
  EXPECT_EQ(one.token_ids, two.token_ids);
  std::vector<std::string> texts(3);
  int ends = 0;
  for (const v1::GenerateResponse& message : one.messages) {
    ends += message.has_sample_finished();
    if (!message.has_delta()) continue;
    texts.at(message.delta().index()) += message.delta().text();
    EXPECT_EQ(message.delta().logprobs_size(), message.delta().token_ids_size());
  }
  EXPECT_EQ(ends, 3);
  EXPECT_FALSE(texts[0] == texts[1] && texts[1] == texts[2]);
}

TEST_F(RecallTest, APromptThatCannotFitIsRefusedWithTheLimit) {
  v1::GenerateRequest request;
  std::string story;
  for (int i = 0; i < 1000; ++i) story += "It rained all morning. ";
  request.set_text(story);
  const grpc::Status status = Generate(client_->inference.get(), request).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(status.error_message().find("2048"), std::string::npos) << status.error_message();
  EXPECT_TRUE(Details(status).has_info);
}

TEST_F(RecallTest, UnknownSessionsAreNotFound) {
  v1::GenerateRequest request;
  request.set_session_id("0123456789abcdef0123456789abcdef");
  request.set_text("a");
  ExpectError(Generate(client_->inference.get(), request).status, grpc::StatusCode::NOT_FOUND,
              "SESSION_NOT_FOUND");
}

struct Scored {
  grpc::Status status;
  std::vector<v1::ScoreResponse> messages;
  std::vector<v1::ChoiceScore> scores;
  v1::ScoreFinished finished;
};

Scored Score(v1::Inference::Stub* stub, const v1::ScoreRequest& request) {
  grpc::ClientContext context;
  Scored result;
  const auto reader = stub->Score(&context, request);
  v1::ScoreResponse message;
  while (reader->Read(&message)) {
    result.messages.push_back(message);
    if (message.has_score()) result.scores.push_back(message.score());
    if (message.has_finished()) result.finished = message.finished();
  }
  result.status = reader->Finish();
  return result;
}

TEST_F(RecallTest, ScoresChoicesAfterAPrompt) {
  v1::ScoreRequest request;
  request.set_text("Mia went to the kitchen. Tom picked up the lamp.\nQ: Where is Mia?\nA:");
  for (const char* place : {"garden", "kitchen", "yard"}) {
    request.add_choices()->set_text(std::string(" Mia is in the ") + place + ".");
  }
  request.set_top_logprobs(2);
  const Scored result = Score(client_->inference.get(), request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  ASSERT_EQ(result.scores.size(), 3);
  EXPECT_EQ(result.finished.best_choice(), 1);
  EXPECT_TRUE(result.scores[1].is_greedy());
  EXPECT_FALSE(result.scores[0].is_greedy());
  EXPECT_TRUE(result.messages.front().has_started());
  EXPECT_TRUE(result.messages.back().has_finished());
  for (const v1::ChoiceScore& score : result.scores) {
    double sum = 0;
    int tokens = 0;
    for (const v1::ScoreResponse& message : result.messages) {
      if (!message.has_tokens() || message.tokens().choice() != score.choice()) continue;
      for (const v1::TokenLogprobs& token : message.tokens().tokens()) {
        sum += token.token().logprob();
        ++tokens;
        EXPECT_EQ(token.top_size(), 2);
      }
    }
    EXPECT_EQ(tokens, score.tokens());
    EXPECT_DOUBLE_EQ(sum, score.logprob());
    EXPECT_LT(sum, 0);
  }
}

TEST_F(RecallTest, ScoresAPromptAsGenerateDoes) {
  v1::ScoreRequest request;
  request.set_text("Mia went to the kitchen.");
  const Scored result = Score(client_->inference.get(), request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  ASSERT_EQ(result.scores.size(), 1);
  v1::GenerateRequest generate;
  generate.set_text(request.text());
  generate.mutable_sampling()->set_max_tokens(0);
  generate.mutable_sampling()->set_prompt_logprobs(0);
  const Generated generated = Generate(client_->inference.get(), generate);
  ASSERT_TRUE(generated.status.ok());
  double sum = 0;
  int64_t next = 1;  // the first token has none
  for (const v1::GenerateResponse& message : generated.messages) {
    if (!message.has_prompt_logprobs()) continue;
    EXPECT_EQ(message.prompt_logprobs().position(), next);
    for (const v1::TokenLogprobs& token : message.prompt_logprobs().tokens()) {
      sum += token.token().logprob();
      ++next;
    }
  }
  EXPECT_EQ(next, generated.messages.at(0).started().prompt_tokens());
  EXPECT_EQ(result.scores[0].tokens(), next - 1);
  EXPECT_DOUBLE_EQ(result.scores[0].logprob(), sum);
}

TEST_F(RecallTest, ScoreRefusesNothingToScore) {
  v1::ScoreRequest request;
  ExpectError(Score(client_->inference.get(), request).status, grpc::StatusCode::INVALID_ARGUMENT,
              "INVALID_FIELD");
  request.set_text("a");
  request.add_choices();
  const grpc::Status status = Score(client_->inference.get(), request).status;
  ExpectError(status, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  EXPECT_EQ(Details(status).bad_request.field_violations(0).field(), "choices[0].content");
}

}  // namespace
}  // namespace sessa
