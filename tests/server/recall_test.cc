// The embedded model through the whole daemon: what a session was told it recalls, however it was told.
// SESSA_FULL=1 tries every split; otherwise a few of each prompt.
#include <thread>

#include "tests/server/recall_fixture.h"

namespace sessa {
namespace {

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

// The turn runs for as long as its client does not read on: it has more to send than fits on the way to it.
TEST_F(RecallTest, ABusySessionIsAborted) {
  grpc::ChannelArguments narrow;
  narrow.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // or the window grows
  narrow.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4096);
  Client other(daemon_->grpc_address(), narrow);
  v1::GenerateRequest request;
  request.set_keep_session(true);
  request.set_text("Mia went to the kitchen.");
  request.mutable_sampling()->set_max_tokens(1500);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_sampling()->set_logprobs(20);
  grpc::ClientContext context;
  const auto reader = other.inference->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  request.set_session_id(message.started().session_id());
  ExpectError(Generate(client_->inference.get(), request).status, grpc::StatusCode::ABORTED, "SESSION_BUSY");
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
  ExpectError(status, grpc::StatusCode::INVALID_ARGUMENT, "PROMPT_TOO_LONG");
  EXPECT_NE(status.error_message().find("2048"), std::string::npos) << status.error_message();
}

TEST_F(RecallTest, UnknownSessionsAreNotFound) {
  v1::GenerateRequest request;
  request.set_session_id("0123456789abcdef0123456789abcdef");
  request.set_text("a");
  ExpectError(Generate(client_->inference.get(), request).status, grpc::StatusCode::NOT_FOUND,
              "SESSION_NOT_FOUND");
}

}  // namespace
}  // namespace sessa
