// The life of a Generate stream, with a core that does what each test says.
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "absl/time/clock.h"
#include "tests/server/fake_core.h"
#include "tests/server/test_daemon.h"

namespace sessa {
namespace {

class StreamTest : public testing::Test {
 protected:
  void Start(DaemonOptions options = TestOptions()) {
    ServedModel model;
    auto core = std::make_unique<FakeCore>();
    core_ = core.get();
    model.core = std::move(core);
    model.limits.vocab = 100;
    model.limits.max_context = 1 << 20;
    auto daemon = Daemon::Start(options, std::move(model), &telemetry_);
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
    client_ = std::make_unique<Client>(daemon_->grpc_address());
  }

  static v1::GenerateRequest Request(const std::string& id = "") {
    v1::GenerateRequest request;
    request.mutable_token_ids()->add_ids(1);
    request.set_request_id(id);
    return request;
  }
  // A turn that is started and then says nothing.
  void StartSilently() {
    core_->set_script(
        [](FakeCore*, const TurnRequest& turn) { turn.sink->OnStarted(FakeCore::StartedFor(turn)); });
  }
  // A turn that sends deltas of `bytes` for as long as it lives and is not paused.
  void Flood(size_t bytes) {
    core_->set_script([this, bytes](FakeCore*, const TurnRequest& turn) {
      turn.sink->OnStarted(FakeCore::StartedFor(turn));
      PostDelta(turn.sink, turn.request_id, 0, bytes);
    });
  }
  void PostDelta(std::shared_ptr<TokenSink> sink, const std::string& id, int64_t position, size_t bytes) {
    core_->Post([=, this] {
      if (!core_->IsLive(id)) return;
      if (core_->IsPaused(id)) {
        absl::SleepFor(absl::Milliseconds(1));
        return PostDelta(sink, id, position, bytes);
      }
      sink->OnDelta({.position = position, .token_ids = {1}, .text = std::string(bytes, 'x')});
      sent_ += static_cast<int64_t>(bytes);
      PostDelta(sink, id, position + 1, bytes);
    });
  }

  Telemetry telemetry_;
  FakeCore* core_ = nullptr;
  std::atomic<int64_t> sent_{0};
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Client> client_;
};

TEST_F(StreamTest, SendsTheEventsInOrderAndEndsOnce) {
  Start();
  const Generated result = Generate(client_->inference.get(), Request("turn-1"));
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  ASSERT_EQ(result.messages.size(), 4);
  EXPECT_EQ(result.messages[0].started().request_id(), "turn-1");
  EXPECT_EQ(result.messages[1].delta().text(), "hello");
  EXPECT_EQ(result.messages[2].sample_finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_TRUE(result.messages[3].has_finished());
  EXPECT_TRUE(Eventually([&] { return daemon_->NotServingReason().empty(); }));
}

TEST_F(StreamTest, TellsTheSessionInTheHeaders) {
  Start();
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, Request("turn-1"));
  reader->WaitForInitialMetadata();
  const auto& headers = context.GetServerInitialMetadata();
  const auto found = headers.find("sessa-session-id");
  ASSERT_NE(found, headers.end());
  EXPECT_EQ(std::string(found->second.data(), found->second.size()), "session-of-turn-1");
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(StreamTest, MakesUpAnIdAndASeedWhenThereAreNone) {
  Start();
  std::set<std::string> ids;
  std::set<uint64_t> seeds;
  for (int i = 0; i < 5; ++i) {
    const Generated result = Generate(client_->inference.get(), Request());
    ids.insert(result.messages.at(0).started().request_id());
    seeds.insert(result.messages.at(0).started().seed());
  }
  EXPECT_EQ(ids.size(), 5);
  EXPECT_EQ(seeds.size(), 5);
}

TEST_F(StreamTest, ARefusedTurnSendsNoHeaders) {
  Start();
  core_->set_refusal(Shed("QUEUE_FULL", "the queue is full", absl::Milliseconds(1500)));
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, Request());
  v1::GenerateResponse message;
  EXPECT_FALSE(reader->Read(&message));
  const grpc::Status status = reader->Finish();
  ExpectError(status, grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL");
  const Details details(status);
  ASSERT_TRUE(details.has_retry);
  EXPECT_EQ(details.retry.retry_delay().seconds(), 1);
  EXPECT_EQ(details.retry.retry_delay().nanos(), 500'000'000);
  EXPECT_TRUE(context.GetServerInitialMetadata().empty());
}

TEST_F(StreamTest, ATurnThatFailsEndsWithTheErrorAndNoFinished) {
  Start();
  core_->set_script([](FakeCore* core, const TurnRequest& turn) {
    turn.sink->OnStarted(FakeCore::StartedFor(turn));
    turn.sink->OnDelta({.token_ids = {1}, .text = "a"});
    core->Fail(turn.request_id,
               MakeError(absl::StatusCode::kInternal, "NaN", {.reason = "NONFINITE_LOGITS"}));
  });
  const Generated result = Generate(client_->inference.get(), Request());
  ExpectError(result.status, grpc::StatusCode::INTERNAL, "NONFINITE_LOGITS");
  EXPECT_EQ(result.text, "a");
  EXPECT_EQ(result.finished, 0);
}

TEST_F(StreamTest, AnErrorWithoutDetailsStillCarriesErrorInfo) {
  Start();
  core_->set_refusal(absl::InternalError("plain"));
  ExpectError(Generate(client_->inference.get(), Request()).status, grpc::StatusCode::INTERNAL, "INTERNAL");
  core_->set_refusal(absl::UnavailableError("plain"));
  const grpc::Status status = Generate(client_->inference.get(), Request()).status;
  ExpectError(status, grpc::StatusCode::UNAVAILABLE, "UNAVAILABLE");
  EXPECT_TRUE(Details(status).has_retry);
}

TEST_F(StreamTest, CancellingTheCallCancelsTheTurn) {
  Start();
  StartSilently();
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, Request());
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(core_->live_turns(), 1);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return core_->live_turns() == 0; }));
}

TEST_F(StreamTest, CancellingBeforeAnythingWasSentCancelsTheTurn) {
  Start();
  core_->set_script([](FakeCore*, const TurnRequest&) {});
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, Request());
  ASSERT_TRUE(Eventually([&] { return core_->live_turns() == 1; }));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return core_->live_turns() == 0; }));
}

TEST_F(StreamTest, LosingTheConnectionCancelsTheTurn) {
  Start();
  StartSilently();
  {
    Client other(daemon_->grpc_address());
    grpc::ClientContext context;
    const auto reader = other.inference->Generate(&context, Request());
    v1::GenerateResponse message;
    ASSERT_TRUE(reader->Read(&message));
  }  // dropped without a word
  EXPECT_TRUE(Eventually([&] { return core_->live_turns() == 0; }));
}

TEST_F(StreamTest, CancelTurnEndsTheStreamWithFinished) {
  Start();
  StartSilently();
  for (const bool by_session : {false, true}) {
    grpc::ClientContext context;
    const auto reader = client_->inference->Generate(&context, Request("turn-1"));
    Generated result;
    v1::GenerateResponse message;
    ASSERT_TRUE(reader->Read(&message));
    v1::CancelTurnRequest cancel;
    if (by_session) {
      cancel.set_session_id("session-of-turn-1");
    } else {
      cancel.set_turn_request_id("turn-1");
    }
    grpc::ClientContext cancel_context;
    v1::CancelTurnResponse response;
    EXPECT_TRUE(client_->inference->CancelTurn(&cancel_context, cancel, &response).ok());
    while (reader->Read(&message)) result.Add(message);
    EXPECT_TRUE(reader->Finish().ok());
    ASSERT_EQ(result.messages.size(), 2);
    EXPECT_EQ(result.messages[0].sample_finished().reason(), v1::FINISH_REASON_CANCELLED);
    EXPECT_EQ(result.finished, 1);
  }
}

TEST_F(StreamTest, ACancelThatComesBeforeTheCoreHasTheTurnIsNotLost) {
  Start();
  StartSilently();
  core_->set_before_submit([&] {
    v1::CancelTurnRequest cancel;
    cancel.set_turn_request_id("turn-1");
    grpc::ClientContext context;
    v1::CancelTurnResponse response;
    EXPECT_TRUE(client_->inference->CancelTurn(&context, cancel, &response).ok());
  });
  const Generated result = Generate(client_->inference.get(), Request("turn-1"));
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.finished, 1);
  EXPECT_EQ(core_->live_turns(), 0u);
}

TEST_F(StreamTest, PassesTheDeadlineOn) {
  Start();
  const absl::Time before = absl::Now();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(100));
  const auto reader = client_->inference->Generate(&context, Request());
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  const absl::Duration left = core_->last_turn()->deadline - before;
  EXPECT_GT(left, absl::Seconds(50));
  EXPECT_LT(left, absl::Seconds(150));
  Generate(client_->inference.get(), Request());
  EXPECT_EQ(core_->last_turn()->deadline, absl::InfiniteFuture());
}

TEST_F(StreamTest, ADeadlineThatPassesCancelsTheTurn) {
  Start();
  StartSilently();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  const auto reader = client_->inference->Generate(&context, Request());
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(Eventually([&] { return core_->live_turns() == 0; }));
}

TEST_F(StreamTest, ARequestIdIsUsedOnceAtATime) {
  Start();
  StartSilently();
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, Request("turn-1"));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  ExpectError(Generate(client_->inference.get(), Request("turn-1")).status, grpc::StatusCode::ALREADY_EXISTS,
              "REQUEST_ID_IN_USE");
  EXPECT_EQ(core_->live_turns(), 1) << "the refused call must not disturb the one that runs";
  context.TryCancel();
  reader->Finish();
  core_->set_script(nullptr);
  EXPECT_TRUE(Eventually([&] { return Generate(client_->inference.get(), Request("turn-1")).status.ok(); }));
}

TEST_F(StreamTest, JoinsDeltasForAReaderThatIsBehind) {
  Start();
  constexpr int kTokens = 5000;
  core_->set_script([](FakeCore* core, const TurnRequest& turn) {
    turn.sink->OnStarted(FakeCore::StartedFor(turn));
    for (int i = 0; i < kTokens; ++i)
      turn.sink->OnDelta({.position = i, .token_ids = {i % 100}, .text = "ab"});
    core->Finish(turn.request_id, FinishReason::kLength);
  });
  const Generated result = Generate(client_->inference.get(), Request());
  ASSERT_TRUE(result.status.ok());
  EXPECT_EQ(result.text.size(), 2 * kTokens);
  ASSERT_EQ(result.token_ids.size(), kTokens);
  for (int i = 0; i < kTokens; ++i) ASSERT_EQ(result.token_ids[i], i % 100);
  EXPECT_LT(result.messages.size(), kTokens);
}

TEST_F(StreamTest, AReaderThatStallsPausesTheTurnAndGoesOn) {
  Start();
  Flood(100'000);
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, Request("turn-1"));
  ASSERT_TRUE(Eventually([&] { return core_->pauses() > 0; }));
  // Reading makes room: far more is sent than what was buffered when it stalled.
  const int64_t stalled = sent_;
  v1::GenerateResponse message;
  while (sent_ < stalled + 50'000'000) ASSERT_TRUE(reader->Read(&message));
  EXPECT_GT(core_->pauses(), 1);
  context.TryCancel();
  reader->Finish();
  EXPECT_TRUE(Eventually([&] { return core_->live_turns() == 0; }));
}

TEST_F(StreamTest, AReaderThatTakesNothingIsEndedResumably) {
  DaemonOptions options = TestOptions();
  options.slow_reader_timeout = absl::Seconds(3);  // also the time left to read the end of the turn
  Start(options);
  Flood(100'000);
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, Request("turn-1"));
  ASSERT_TRUE(Eventually([&] { return sent_ > 0; }));
  EXPECT_TRUE(Eventually([&] { return core_->live_turns() == 0; }));
  EXPECT_LT(sent_, 64 << 20) << "a stalled stream must not buffer without bound";
  Generated result;
  v1::GenerateResponse message;
  while (reader->Read(&message)) result.Add(message);
  const grpc::Status status = reader->Finish();
  ExpectError(status, grpc::StatusCode::ABORTED, "SLOW_READER");
  EXPECT_TRUE(Details(status).has_retry);
  EXPECT_EQ(result.finished, 0);
}

TEST_F(StreamTest, AReaderThatNeverReadsAgainIsTornDown) {
  DaemonOptions options = TestOptions();
  options.slow_reader_timeout = absl::Milliseconds(200);
  Start(options);
  Flood(100'000);
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, Request("turn-1"));
  ASSERT_TRUE(Eventually([&] { return sent_ > 0; }));
  const std::weak_ptr<TokenSink> stream = core_->last_turn()->sink;
  EXPECT_TRUE(Eventually([&] { return core_->live_turns() == 0; }));
  // The request_id is free again, though the call's client still has not read.
  core_->set_script(nullptr);
  EXPECT_TRUE(Eventually([&] { return Generate(client_->inference.get(), Request("turn-1")).status.ok(); }));
  EXPECT_TRUE(Eventually([&] { return stream.expired(); })) << "the call itself is closed in the end";
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_NE(status.error_message().find("took nothing"), std::string::npos) << status.error_message();
  EXPECT_EQ(status.error_details(), "") << "gRPC attaches none when a call is torn down: documented";
}

TEST_F(StreamTest, SurvivesCancelsAtRandomMoments) {
  Start();
  core_->set_script([this](FakeCore*, const TurnRequest& turn) {
    turn.sink->OnStarted(FakeCore::StartedFor(turn));
    PostDelta(turn.sink, turn.request_id, 0, 10);
  });
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([this, i] {
      for (int k = 0; k < 100; ++k) {
        grpc::ClientContext context;
        const auto reader = client_->inference->Generate(&context, Request());
        v1::GenerateResponse message;
        for (int reads = (k * 7 + i) % 5; reads > 0; --reads) reader->Read(&message);
        context.TryCancel();
        EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(Eventually([&] { return core_->live_turns() == 0; }));
}

TEST_F(StreamTest, StoppingTheDaemonEndsOpenStreams) {
  Start();
  StartSilently();
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, Request());
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  daemon_.reset();
  EXPECT_FALSE(reader->Finish().ok());
}

}  // namespace
}  // namespace sessa
