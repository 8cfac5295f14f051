// The client library against a fake server in this process.
#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/check_strings.h"
#include "client/json.h"
#include "client/loopback.h"
#include "client/rpc_errors.h"
#include "runtime/base/errors.h"
#include "tests/client/fake_server.h"

namespace sessa {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ClientTest : public ::testing::Test {
 protected:
  absl::StatusOr<v1::Finished> Generate(const std::string& prompt, const CallOptions& options = {}) {
    v1::GenerateRequest request;
    request.set_text(prompt);
    request.set_request_id("turn");
    request.mutable_sampling()->set_max_tokens(3);
    return client_.Generate(request, options, [this](const v1::GenerateResponse& event) {
      text_ += event.delta().text();
      order_ += absl::StrCat(static_cast<int>(event.event_case()));
      if (on_event_) on_event_();
    });
  }

  FakeServer server_;
  Client client_{{.server = server_.address()}};
  std::string text_, order_;  // texts of the deltas; cases of the events
  std::function<void()> on_event_;
};

TEST_F(ClientTest, GenerateGivesEventsInOrderAndTheEnd) {
  const auto finished = Generate("hello");
  ASSERT_TRUE(finished.ok()) << finished.status();
  EXPECT_EQ(text_, "w0 w1 w2 ");
  EXPECT_EQ(order_, "144456");
  EXPECT_EQ(finished->position(), 8);
  EXPECT_EQ(finished->usage().generated_tokens(), 3);
}

TEST_F(ClientTest, ErrorDetailsComeThrough) {
  const absl::Status queue = Generate("error:queue").status();
  EXPECT_EQ(queue.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetErrorDetail(queue).reason, "QUEUE_FULL");
  EXPECT_EQ(GetErrorDetail(queue).retry_after, absl::Milliseconds(250));
  EXPECT_THAT(DescribeError(queue, server_.address()), HasSubstr("Try again in 250ms"));
  EXPECT_EQ(ExitCodeOf(queue), kExitUnavailable);
  EXPECT_THAT(ErrorToJson(queue), HasSubstr("\"retry_after_seconds\":0.25"));

  const absl::Status field = Generate("error:field").status();
  EXPECT_EQ(GetErrorDetail(field).field, "sampling.top_p");
  EXPECT_THAT(DescribeError(field, server_.address()), HasSubstr("field sampling.top_p"));
  EXPECT_EQ(ExitCodeOf(field), kExitInvalid);

  v1::DeleteSessionRequest request;
  request.set_session_id("nobody");
  const absl::Status resource = client_.DeleteSession(request);
  EXPECT_EQ(GetErrorDetail(resource).resource, "session/nobody");
  EXPECT_THAT(DescribeError(resource, server_.address()), HasSubstr("sessactl sessions list"));
}

TEST_F(ClientTest, AStreamWithoutFinishedIsAnError) {
  EXPECT_EQ(Generate("error:broken").status().code(), absl::StatusCode::kInternal);
}

TEST_F(ClientTest, CancelTurnEndsAStreamInOrder) {
  v1::CancelTurnRequest cancel;
  cancel.set_turn_request_id("turn");
  std::thread other([&] {
    server_.WaitForTurns(1);
    EXPECT_TRUE(client_.CancelTurn(cancel).ok());
  });
  const auto finished = Generate("wait");
  other.join();
  ASSERT_TRUE(finished.ok()) << finished.status();
  EXPECT_EQ(text_, "w0 ") << "what was sent before stays";
}

TEST_F(ClientTest, TheCancellerEndsACall) {
  CallCanceller canceller;
  on_event_ = [&] { canceller.Cancel(); };
  EXPECT_EQ(Generate("wait", {.canceller = &canceller}).status().code(), absl::StatusCode::kCancelled);
  on_event_ = nullptr;
  EXPECT_TRUE(Generate("again", {.canceller = &canceller}).ok()) << "the next call is a new one";
}

TEST_F(ClientTest, TheDeadlineEndsACall) {
  const auto end = Generate("wait", {.deadline = absl::Now() + absl::Milliseconds(50)});
  EXPECT_EQ(end.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ExitCodeOf(end.status()), kExitDeadline);
}

TEST_F(ClientTest, SessionsGoOverTheWire) {
  v1::ExportSessionRequest request;
  request.set_session_id("s");
  std::vector<v1::SessionChunk> chunks;
  ASSERT_TRUE(client_
                  .ExportSession(request, {},
                                 [&](const v1::SessionChunk& chunk) {
                                   chunks.push_back(chunk);
                                   return absl::OkStatus();
                                 })
                  .ok());
  ASSERT_EQ(chunks.size(), 3u);
  size_t sent = 0;
  const auto session = client_.ImportSession({}, [&](v1::ImportSessionRequest* next) -> absl::StatusOr<bool> {
    if (sent == chunks.size()) return false;
    *next->mutable_chunk() = chunks[sent++];
    return true;
  });
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->position(), 3);
}

TEST_F(ClientTest, AnExportStopsAtTheHandlersError) {
  const absl::Status full = absl::InvalidArgumentError("disk full");
  EXPECT_EQ(client_.ExportSession({}, {}, [&](const v1::SessionChunk&) { return full; }), full);
}

TEST_F(ClientTest, WatchStatusEndsWhenTheHandlerHasEnough) {
  int updates = 0;
  EXPECT_TRUE(
      client_.WatchStatus(absl::Seconds(1), {}, [&](const v1::ServerStatus&) { return ++updates < 3; }).ok());
  EXPECT_EQ(updates, 3);
}

TEST_F(ClientTest, WhatTheServerLacksIsUnimplemented) {
  const auto tokens = client_.Tokenize({});
  EXPECT_EQ(ExitCodeOf(tokens.status()), kExitUnimplemented);
  EXPECT_EQ(client_.CheckHealth("").status().code(), absl::StatusCode::kUnimplemented);
}

// Where nobody listens on this machine's port 1.
class DeadProxy {
 public:
  DeadProxy() {
    unsetenv("no_proxy");
    setenv("http_proxy", "http://127.0.0.1:1", 1);
  }
  ~DeadProxy() { unsetenv("http_proxy"); }
};

TEST(ClientProxy, NoProxyIsAskedForAServerOnThisMachine) {
  FakeServer server;
  const DeadProxy proxy;
  Client client({.server = server.address()});
  EXPECT_TRUE(client.GetModel({.deadline = absl::Now() + absl::Minutes(1)}).ok());
}

TEST(ClientProxy, KnowsWhatIsOnThisMachine) {
  for (const char* server : {"127.0.0.1:50051", "127.8.9.1:1", "localhost:50051", "[::1]:50051"})
    EXPECT_TRUE(IsLoopback(server)) << server;
  for (const char* server : {"", "10.0.0.1:50051", "127.example.com:1", "localhost.example.com:1", "[::2]:1"})
    EXPECT_FALSE(IsLoopback(server)) << server;
}

TEST(ClientErrors, NobodyThereSaysHowToStartADaemon) {
  Client client({.server = "127.0.0.1:1"});
  const absl::Status status = client.GetModel().status();
  EXPECT_EQ(ExitCodeOf(status), kExitUnavailable);
  EXPECT_THAT(DescribeError(status, "127.0.0.1:1"), HasSubstr("sessad --listen=127.0.0.1:1"));
}

// It would last for ever if the wait for a connection did not end by the deadline.
TEST(ClientErrors, ADeadlineHoldsWhileThereIsNoConnection) {
  Client client({.server = "127.0.0.1:1", .connect_time = absl::InfiniteDuration()});
  const absl::Status status = client.GetModel({.deadline = absl::Now() + absl::Milliseconds(100)}).status();
  // Which of the two depends on how busy this machine is: half of the time is left for the call to find out.
  EXPECT_THAT(status.code(),
              ::testing::AnyOf(absl::StatusCode::kUnavailable, absl::StatusCode::kDeadlineExceeded));
}

TEST_F(ClientTest, TextThatIsNotUtf8IsNotSent) {
  const absl::Status status = Generate("ab\xFF").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "text: not UTF-8 at byte 2");
  EXPECT_EQ(GetErrorDetail(status).field, "text");
  EXPECT_TRUE(server_.requests().empty());
  const absl::Status import = client_
                                  .ImportSession({},
                                                 [](v1::ImportSessionRequest* next) -> absl::StatusOr<bool> {
                                                   next->set_request_id("\xFF");
                                                   return true;
                                                 })
                                  .status();
  EXPECT_THAT(import.message(), HasSubstr("request_id: not UTF-8"));
}

TEST(CheckStrings, LooksIntoNestedAndRepeatedFields) {
  v1::GenerateRequest request;
  request.mutable_sampling()->add_stop("ë");
  (*request.mutable_sampling()->mutable_logit_bias())[7] = 1;
  EXPECT_TRUE(CheckStrings(request).ok());
  request.mutable_sampling()->add_stop("\xC3");
  EXPECT_EQ(CheckStrings(request).message(), "sampling.stop[1]: not UTF-8 at byte 0");
}

TEST(CheckStrings, BytesMayBeAnything) {
  v1::TokenizeResponse response;
  response.add_pieces("\xFF");
  EXPECT_TRUE(CheckStrings(response).ok());
}

TEST(ClientErrors, MessagesCannotSteerTheTerminal) {
  const std::string text = DescribeError(absl::InvalidArgumentError("bad \x1B[2J"), "host:1");
  EXPECT_THAT(text, Not(HasSubstr("\x1B")));
}

TEST(Json, KeepsProtoNamesAndDefaults) {
  v1::Session session;
  session.set_session_id("a\"b");
  const std::string json = ToJson(session, JsonStyle::kLine);
  EXPECT_THAT(json, HasSubstr("\"session_id\":\"a\\\"b\""));
  EXPECT_THAT(json, HasSubstr("\"cached_tokens\":\"0\""));
  EXPECT_THAT(json, Not(HasSubstr("\n")));
}

}  // namespace
}  // namespace sessa
