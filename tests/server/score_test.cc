// Score through the whole daemon, with the embedded model.
#include "tests/server/recall_fixture.h"

namespace sessa {
namespace {

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

class ScoreTest : public RecallTest {
 protected:
  static int32_t TokensOf(const std::string& text) {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    v1::TokenizeResponse response;
    request.set_text(text);
    EXPECT_TRUE(client_->inference->Tokenize(&context, request, &response).ok());
    return response.token_ids_size();
  }
};

TEST_F(ScoreTest, ScoresChoicesAfterAPrompt) {
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

TEST_F(ScoreTest, ScoresAPromptAsGenerateDoes) {
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

TEST_F(ScoreTest, ScoresAfterASessionAsAfterItsText) {
  const std::string story = "Mia went to the kitchen. Tom picked up the lamp.\n",
                    question = "Q: Where is Mia?\nA:";
  v1::GenerateRequest tell;
  tell.set_text(story);
  const std::string session = Tell(tell);
  v1::ScoreRequest whole, after;
  whole.set_text(story + question);
  after.set_session_id(session);
  after.set_text(question);
  for (v1::ScoreRequest* request : {&whole, &after}) {
    for (const char* place : {"garden", "kitchen"}) {
      request->add_choices()->set_text(std::string(" Mia is in the ") + place + ".");
    }
  }
  const Scored expected = Score(client_->inference.get(), whole);
  for (int time = 0; time < 2; ++time) {  // the first leaves nothing behind
    const Scored result = Score(client_->inference.get(), after);
    ASSERT_TRUE(result.status.ok()) << result.status.error_message();
    ASSERT_EQ(result.scores.size(), 2);
    for (int i = 0; i < 2; ++i) EXPECT_EQ(result.scores[i].logprob(), expected.scores[i].logprob()) << i;
    EXPECT_EQ(result.finished.best_choice(), 1);
    EXPECT_EQ(result.messages.front().started().session_id(), session);
  }
  grpc::ClientContext context;
  v1::GetSessionRequest get;
  v1::Session info;
  get.set_session_id(session);
  ASSERT_TRUE(client_->sessions->GetSession(&context, get, &info).ok());
  EXPECT_EQ(info.position(), expected.messages.front().started().prompt_tokens() -
                                 TokensOf(question + " Mia is in the garden."));
  Forget(session);
  after.set_session_id(session);
  ExpectError(Score(client_->inference.get(), after).status, grpc::StatusCode::NOT_FOUND,
              "SESSION_NOT_FOUND");
}

TEST_F(ScoreTest, CountsTheBosIntoTheLimit) {
  for (const int32_t tokens : {2047, 2048}) {  // and one for BOS
    v1::ScoreRequest request;
    request.mutable_token_ids()->add_ids(5);
    for (int i = 0; i < 2; ++i) request.add_choices()->mutable_token_ids()->add_ids(6);
    for (int32_t i = 2; i < tokens; ++i) request.mutable_choices(1)->mutable_token_ids()->add_ids(7);
    const Scored result = Score(client_->inference.get(), request);
    EXPECT_EQ(result.scores.size(), tokens == 2047 ? 2 : 0);
    if (result.status.ok()) continue;
    ExpectError(result.status, grpc::StatusCode::INVALID_ARGUMENT, "PROMPT_TOO_LONG");
    EXPECT_EQ(Details(result.status).bad_request.field_violations(0).field(), "choices[1]");
  }
}

TEST_F(ScoreTest, ScoreRefusesNothingToScore) {
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
