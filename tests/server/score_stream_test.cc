// The life of a Score stream, with a core that does what each test says.
#include <atomic>
#include <thread>

#include "tests/server/services_fixture.h"

namespace sessa {
namespace {

class ScoreStreamTest : public ServicesTest {
 protected:
  struct Scored {
    grpc::Status status;
    std::vector<v1::ScoreResponse> messages;
    int scores = 0, finished = 0;
  };
  Scored Score(const v1::ScoreRequest& request) {
    grpc::ClientContext context;
    const auto reader = client_->inference->Score(&context, request);
    return ReadAll(reader.get());
  }
  static Scored ReadAll(grpc::ClientReader<v1::ScoreResponse>* reader) {
    Scored result;
    v1::ScoreResponse message;
    while (reader->Read(&message)) {
      result.messages.push_back(message);
      result.scores += message.has_score();
      result.finished += message.has_finished();
    }
    result.status = reader->Finish();
    return result;
  }

  static v1::ScoreRequest Request(int choices) {
    v1::ScoreRequest request;
    request.set_text("abc");
    request.set_request_id("score");
    for (int i = 0; i < choices; ++i) request.add_choices()->set_text("de");
    return request;
  }
  // What a turn that scores says, but for its end.
  static void Tell(const TurnRequest& turn, size_t tokens) {
    turn.sink->OnStarted(FakeCore::StartedFor(turn));
    PromptLogprobsEvent event;
    event.position = 1;
    event.tokens.resize(tokens);
    turn.sink->OnPromptLogprobs(std::move(event));
  }
  // Every turn scores, and is remembered.
  void Remember() {
    core_->set_script([this](FakeCore* core, const TurnRequest& turn) {
      turns_.push_back(turn);
      Tell(turn, 4);
      core->Finish(turn.request_id, FinishReason::kLength);
    });
  }

  std::vector<TurnRequest> turns_;
};

TEST_F(ScoreStreamTest, ATurnThatEndedEarlyIsAnError) {
  const struct {
    FinishReason reason;
    grpc::StatusCode code;
    const char* name;
  } cases[] = {
      {FinishReason::kDeadline, grpc::StatusCode::DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"},
      {FinishReason::kDrained, grpc::StatusCode::UNAVAILABLE, "DRAINING"},
      {FinishReason::kCancelled, grpc::StatusCode::CANCELLED, "CANCELLED"},
      {FinishReason::kError, grpc::StatusCode::INTERNAL, "INTERNAL"},
  };
  for (const auto& c : cases) {
    for (const int choices : {0, 1, 3}) {
      SCOPED_TRACE(testing::Message() << c.name << ", " << choices << " choices");
      int turns = 0;
      core_->set_script([&](FakeCore* core, const TurnRequest& turn) {
        Tell(turn, 2);
        const bool last = ++turns >= choices;
        core->Finish(turn.request_id, last ? c.reason : FinishReason::kLength);
      });
      const Scored result = Score(Request(choices));
      ExpectError(result.status, c.code, c.name);
      EXPECT_EQ(result.scores, std::max(0, choices - 1)) << "of those that were scored whole";
      EXPECT_EQ(result.finished, 0);
    }
  }
}

TEST_F(ScoreStreamTest, ChoicesFollowTheSessionAsItWas) {
  Remember();
  core_->AddSession({.id = "session", .position = 7});
  v1::ScoreRequest request = Request(3);
  request.set_session_id("session");
  ASSERT_TRUE(Score(request).status.ok());
  ASSERT_EQ(turns_.size(), 3);
  for (const TurnRequest& turn : turns_) {
    EXPECT_EQ(turn.session_id, "session");
    EXPECT_FALSE(turn.append);
    EXPECT_EQ(turn.expected_position, 7);
  }
  request.set_session_id("another");
  ExpectError(Score(request).status, grpc::StatusCode::NOT_FOUND, "SESSION_NOT_FOUND");
}

TEST_F(ScoreStreamTest, GoesOnWhileTheServerDrains) {
  Remember();
  ASSERT_TRUE(Score(Request(3)).status.ok());
  ASSERT_EQ(turns_.size(), 3);
  EXPECT_FALSE(turns_[0].continues);
  EXPECT_TRUE(turns_[1].continues);
  EXPECT_TRUE(turns_[2].continues);
}

TEST_F(ScoreStreamTest, AReaderThatIsBehindHoldsTheNextChoiceUp) {
  std::atomic<bool> began{false}, began_paused{false}, went_on{false};
  std::function<void()> wait = [&] {
    if (core_->IsPaused("score")) {
      absl::SleepFor(absl::Milliseconds(1));
      return core_->Post(wait);
    }
    went_on = true;
    core_->Finish("score", FinishReason::kLength);
  };
  core_->set_script([&](FakeCore* core, const TurnRequest& turn) {
    turn.sink->OnStarted(FakeCore::StartedFor(turn));
    if (turn.continues) {
      began_paused = turn.paused;
      began = true;
      return wait();
    }
    // Far more than lies between the stream and a client that does not read.
    for (int i = 0; i < 500; ++i) {
      PromptLogprobsEvent event;
      event.position = 1;
      event.tokens.assign(1000, {.token = 'a', .logprob = -1});
      turn.sink->OnPromptLogprobs(std::move(event));
    }
    core->Finish("score", FinishReason::kLength);
  });
  grpc::ChannelArguments small;
  small.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  client_ = std::make_unique<Client>(daemon_->grpc_address(), small);
  grpc::ClientContext context;
  const auto reader = client_->inference->Score(&context, Request(2));
  ASSERT_TRUE(Eventually([&] { return began.load(); }));
  EXPECT_TRUE(began_paused);
  EXPECT_FALSE(went_on);
  const Scored result = ReadAll(reader.get());
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.scores, 2);
  EXPECT_TRUE(went_on);
}

TEST_F(ScoreStreamTest, AChoiceThatIsTooLongIsNamedBeforeAnythingIsComputed) {
  Remember();
  v1::ScoreRequest request = Request(3);  // the context holds 1000 tokens
  request.mutable_choices(1)->set_text(std::string(998, 'x'));
  for (const int position : {0, 500}) {
    if (position > 0) {
      core_->AddSession({.id = "session", .position = position});
      request.set_session_id("session");
      request.mutable_choices(1)->set_text(std::string(498, 'x'));
    }
    const Scored result = Score(request);
    ExpectError(result.status, grpc::StatusCode::INVALID_ARGUMENT, "PROMPT_TOO_LONG");
    EXPECT_EQ(Details(result.status).bad_request.field_violations(0).field(), "choices[1]");
    EXPECT_NE(result.status.error_message().find("1001 tokens, the limit is 1000"), std::string::npos)
        << result.status.error_message();
    EXPECT_TRUE(result.messages.empty());
    EXPECT_TRUE(turns_.empty());
  }
  request.mutable_choices(1)->set_text(std::string(497, 'x'));
  EXPECT_TRUE(Score(request).status.ok());
}

TEST_F(ScoreStreamTest, TellsTheSessionInTheHeaders) {
  Remember();
  grpc::ClientContext context;
  const auto reader = client_->inference->Score(&context, Request(2));
  EXPECT_TRUE(ReadAll(reader.get()).status.ok());
  const auto found = context.GetServerInitialMetadata().find("sessa-session-id");
  ASSERT_NE(found, context.GetServerInitialMetadata().end());
  EXPECT_EQ(std::string(found->second.data(), found->second.size()), "session-of-score");
}

TEST_F(ScoreStreamTest, TextsToTokeniseAreBounded) {
  DaemonOptions options = TestOptions();
  options.max_request_bytes = 1 << 20;
  Start(options);
  std::atomic<bool> open{false};
  core_->Post([&open] {
    while (!open) absl::SleepFor(absl::Milliseconds(1));
  });
  v1::ScoreRequest request = Request(0);
  request.clear_request_id();
  for (int i = 0; i < 256; ++i)
    request.add_choices()->set_text(std::string(990, 'x'));  // a quarter of a mebibyte
  constexpr int kCalls = 20, kFit = 16;                      // four of the largest messages
  std::atomic<int> refused{0}, scored{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < kCalls; ++i) {
    clients.emplace_back([&] {
      const grpc::Status status = Score(request).status;
      ++(status.ok() ? scored : refused);
      if (!status.ok()) ExpectError(status, grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL");
    });
  }
  EXPECT_TRUE(Eventually([&] { return refused == kCalls - kFit; }));
  open = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(refused, kCalls - kFit);
  EXPECT_EQ(scored, kFit);
  EXPECT_TRUE(Score(request).status.ok()) << "there is room again";
}

}  // namespace
}  // namespace sessa
