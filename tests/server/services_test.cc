// Every RPC but Generate's stream, health, operator HTTP and drain, with a core that does what each test
// says.
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <algorithm>
#include <deque>
#include <set>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/server/fake_core.h"
#include "tests/server/letters_model.h"
#include "tests/server/test_daemon.h"

namespace sessa {
namespace {

class ServicesTest : public testing::Test {
 protected:
  void SetUp() override { Start(); }

  void Start(DaemonOptions options = TestOptions()) {
    daemon_.reset();
    auto core = std::make_unique<FakeCore>();
    core_ = core.get();
    ServedModel model = LettersModel(std::move(core));
    auto daemon = Daemon::Start(options, std::move(model), &telemetry_.emplace_back());
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
    client_ = std::make_unique<Client>(daemon_->grpc_address());
  }

  // Calls a unary method.
  template <class Stub, class Request, class Response>
  grpc::Status Call(Stub* stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    return (stub->*method)(&context, request, response);
  }

  grpc::health::v1::HealthCheckResponse::ServingStatus Health(const std::string& service) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    grpc::health::v1::HealthCheckResponse response;
    request.set_service(service);
    EXPECT_TRUE(
        grpc::health::v1::Health::NewStub(client_->channel)->Check(&context, request, &response).ok());
    return response.status();
  }
  httplib::Result Get(const std::string& path) {
    return httplib::Client("http://" + daemon_->metrics_address()).Get(path);
  }

  std::deque<Telemetry> telemetry_;
  FakeCore* core_ = nullptr;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Client> client_;
};

// --- Inference

TEST_F(ServicesTest, RefusesABadRequestNamingTheField) {
  v1::GenerateRequest request;
  request.set_text("hi");
  request.mutable_sampling()->set_top_p(2);
  const grpc::Status status = Generate(client_->inference.get(), request).status;
  ExpectError(status, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  const Details details(status);
  ASSERT_EQ(details.bad_request.field_violations_size(), 1);
  EXPECT_EQ(details.bad_request.field_violations(0).field(), "sampling.top_p");
  EXPECT_EQ(core_->live_turns(), 0);
}

TEST_F(ServicesTest, WhatIsNotBuiltNamesTheFeature) {
  grpc::ClientContext context;
  v1::GenerateResponse message;
  const auto reader = client_->inference->Attach(&context, v1::AttachRequest());
  EXPECT_FALSE(reader->Read(&message));
  const grpc::Status status = reader->Finish();
  ExpectError(status, grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  EXPECT_NE(status.error_message().find("Attach"), std::string::npos);

  v1::Session session;
  ExpectError(
      Call(client_->sessions.get(), &v1::Sessions::Stub::UpdateSession, v1::UpdateSessionRequest(), &session),
      grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  ExpectError(
      Call(client_->sessions.get(), &v1::Sessions::Stub::ForkSession, v1::ForkSessionRequest(), &session),
      grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  ExpectError(
      Call(client_->sessions.get(), &v1::Sessions::Stub::RewindSession, v1::RewindSessionRequest(), &session),
      grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  v1::CreateSessionRequest labelled;
  (*labelled.mutable_labels())["a"] = "b";
  ExpectError(Call(client_->sessions.get(), &v1::Sessions::Stub::CreateSession, labelled, &session),
              grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  {
    grpc::ClientContext export_context;
    v1::SessionChunk chunk;
    const auto chunks = client_->sessions->ExportSession(&export_context, v1::ExportSessionRequest());
    EXPECT_FALSE(chunks->Read(&chunk));
    ExpectError(chunks->Finish(), grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  }
  {
    grpc::ClientContext import_context;
    const auto writer = client_->sessions->ImportSession(&import_context, &session);
    ExpectError(writer->Finish(), grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  }
}

TEST_F(ServicesTest, CancelTurnWantsExactlyOneName) {
  v1::CancelTurnRequest request;
  v1::CancelTurnResponse response;
  auto cancel = [&] {
    return Call(client_->inference.get(), &v1::Inference::Stub::CancelTurn, request, &response);
  };
  ExpectError(cancel(), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  request.set_turn_request_id("a");
  EXPECT_TRUE(cancel().ok()) << "an unknown turn is over already";
  request.set_session_id("b");
  ExpectError(cancel(), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  request.clear_turn_request_id();
  EXPECT_TRUE(cancel().ok());
}

TEST_F(ServicesTest, TokenizesAndBack) {
  v1::TokenizeRequest request;
  request.set_text("ab");
  request.set_with_pieces(true);
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(Call(client_->inference.get(), &v1::Inference::Stub::Tokenize, request, &tokens).ok());
  EXPECT_EQ(std::vector<int32_t>(tokens.token_ids().begin(), tokens.token_ids().end()),
            (std::vector<int32_t>{'a', 'b'}));
  ASSERT_EQ(tokens.pieces_size(), 2);
  EXPECT_EQ(tokens.pieces(1), "b");

  v1::DetokenizeRequest back;
  v1::DetokenizeResponse text;
  for (const int32_t id : std::vector<int32_t>{0, 'a', 'b'}) back.add_token_ids(id);
  auto detokenize = [&] {
    return Call(client_->inference.get(), &v1::Inference::Stub::Detokenize, back, &text);
  };
  ASSERT_TRUE(detokenize().ok());
  EXPECT_EQ(text.text(), "ab");
  back.set_skip_special_tokens(false);
  ASSERT_TRUE(detokenize().ok());
  EXPECT_EQ(text.text(), "<s>ab");
  back.add_token_ids(128);
  ExpectError(detokenize(), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
}

TEST_F(ServicesTest, TellsTheModel) {
  v1::Model model;
  ASSERT_TRUE(
      Call(client_->inference.get(), &v1::Inference::Stub::GetModel, v1::GetModelRequest(), &model).ok());
  EXPECT_EQ(model.name(), "letters");
}

TEST_F(ServicesTest, RefusesAMessageThatIsTooLarge) {
  v1::GenerateRequest request;
  request.set_text(std::string(5 << 20, 'a'));
  EXPECT_EQ(Generate(client_->inference.get(), request).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ServicesTest, RefusesBytesThatAreNoMessage) {
  grpc::GenericStub stub(client_->channel);
  grpc::Slice slice("\xff\xff\xff\xff rubbish");
  grpc::ByteBuffer request(&slice, 1), response;
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareUnaryCall(&context, "/sessa.v1.Inference/Generate", request, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(Generate(client_->inference.get(),
                       [] {
                         v1::GenerateRequest good;
                         good.set_text("a");
                         return good;
                       }())
                  .status.ok());
}

TEST_F(ServicesTest, ReflectionNamesTheServices) {
  grpc::GenericStub stub(client_->channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call =
      stub.PrepareCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(nullptr);
  ASSERT_TRUE(wait());
  grpc::Slice list_services("\x3a\x00", 2);  // field 7, an empty string
  call->Write(grpc::ByteBuffer(&list_services, 1), nullptr);
  ASSERT_TRUE(wait());
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  ASSERT_TRUE(wait());
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(answer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices)
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  for (const char* service : {"sessa.v1.Inference", "sessa.v1.Sessions", "sessa.v1.Admin"}) {
    EXPECT_NE(bytes.find(service), std::string::npos) << service;
  }
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
}

// --- Sessions

TEST_F(ServicesTest, CreatesGetsAndDeletesSessions) {
  v1::Session session;
  ASSERT_TRUE(
      Call(client_->sessions.get(), &v1::Sessions::Stub::CreateSession, v1::CreateSessionRequest(), &session)
          .ok());
  EXPECT_EQ(session.session_id(), "new-session");
  EXPECT_EQ(session.ttl().seconds(), 24 * 3600);

  v1::GetSessionRequest get;
  get.set_session_id("new-session");
  EXPECT_TRUE(Call(client_->sessions.get(), &v1::Sessions::Stub::GetSession, get, &session).ok());
  v1::DeleteSessionRequest erase;
  v1::DeleteSessionResponse erased;
  erase.set_session_id("new-session");
  EXPECT_TRUE(Call(client_->sessions.get(), &v1::Sessions::Stub::DeleteSession, erase, &erased).ok());

  const grpc::Status gone = Call(client_->sessions.get(), &v1::Sessions::Stub::GetSession, get, &session);
  ExpectError(gone, grpc::StatusCode::NOT_FOUND, "SESSION_NOT_FOUND");
  const Details details(gone);
  EXPECT_EQ(details.resource.resource_type(), "session");
  EXPECT_EQ(details.resource.resource_name(), "new-session");
  ExpectError(
      Call(client_->sessions.get(), &v1::Sessions::Stub::GetSession, v1::GetSessionRequest(), &session),
      grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
}

TEST_F(ServicesTest, ListsSessionsPageByPage) {
  for (int i = 0; i < 25; ++i) {
    SessionInfo info;
    info.id = absl::StrCat("session-", i + 100);
    core_->AddSession(info);
  }
  v1::ListSessionsRequest request;
  request.set_page_size(10);
  std::vector<std::string> ids;
  std::vector<int> sizes;
  do {
    v1::ListSessionsResponse page;
    ASSERT_TRUE(Call(client_->sessions.get(), &v1::Sessions::Stub::ListSessions, request, &page).ok());
    sizes.push_back(page.sessions_size());
    for (const v1::Session& session : page.sessions()) ids.push_back(session.session_id());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(sizes, (std::vector<int>{10, 10, 5}));
  EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), 25);

  v1::ListSessionsResponse page;
  request.set_page_token("");
  request.set_page_size(25);
  ASSERT_TRUE(Call(client_->sessions.get(), &v1::Sessions::Stub::ListSessions, request, &page).ok());
  EXPECT_EQ(page.next_page_token(), "") << "a full last page is the last";
  request.set_page_size(-1);
  ExpectError(Call(client_->sessions.get(), &v1::Sessions::Stub::ListSessions, request, &page),
              grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  request.set_page_size(0);
  request.set_page_token("*");
  ExpectError(Call(client_->sessions.get(), &v1::Sessions::Stub::ListSessions, request, &page),
              grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
}

TEST_F(ServicesTest, TellsWhichTurnKeepsASessionBusy) {
  SessionInfo info;
  info.id = "s";
  info.busy = true;
  core_->AddSession(info);
  core_->set_script(
      [](FakeCore*, const TurnRequest& turn) { turn.sink->OnStarted(FakeCore::StartedFor(turn)); });
  v1::GenerateRequest request;
  request.set_session_id("s");
  request.set_request_id("turn-1");
  grpc::ClientContext context;
  const auto reader = client_->inference->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  v1::GetSessionRequest get;
  get.set_session_id("s");
  v1::Session session;
  ASSERT_TRUE(Call(client_->sessions.get(), &v1::Sessions::Stub::GetSession, get, &session).ok());
  EXPECT_EQ(session.running_request_id(), "turn-1");
  context.TryCancel();
  reader->Finish();
}

// --- Admin, health, drain

TEST_F(ServicesTest, TellsItsStatus) {
  CoreStatus core;
  core.serving = true;
  core.running = 3;
  core.pages_total = 10;
  core.pages_free = 4;
  core.generated_tokens = 77;
  core_->set_status(core);
  v1::ServerStatus status;
  ASSERT_TRUE(Call(client_->admin.get(), &v1::Admin::Stub::GetStatus, v1::GetStatusRequest(), &status).ok());
  EXPECT_TRUE(status.serving());
  EXPECT_EQ(status.queue().running(), 3);
  EXPECT_EQ(status.state().pages_free(), 4);
  EXPECT_EQ(status.totals().generated_tokens(), 77);
  EXPECT_EQ(status.model_name(), "letters");
  EXPECT_GT(status.process().resident_bytes(), 0);
  EXPECT_GT(status.time().seconds(), status.start_time().seconds() - 1);
}

TEST_F(ServicesTest, WatchesTheStatus) {
  v1::WatchStatusRequest request;
  request.mutable_interval()->set_nanos(100'000'000);
  grpc::ClientContext context;
  const auto reader = client_->admin->WatchStatus(&context, request);
  v1::ServerStatus status;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(reader->Read(&status));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);

  request.mutable_interval()->set_nanos(1);
  grpc::ClientContext bad;
  const auto refused = client_->admin->WatchStatus(&bad, request);
  EXPECT_FALSE(refused->Read(&status));
  ExpectError(refused->Finish(), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
}

TEST_F(ServicesTest, StoppingEndsAWatch) {
  grpc::ClientContext context;
  const auto reader = client_->admin->WatchStatus(&context, v1::WatchStatusRequest());
  v1::ServerStatus status;
  ASSERT_TRUE(reader->Read(&status));
  daemon_.reset();
  while (reader->Read(&status)) {
  }
  ExpectError(reader->Finish(), grpc::StatusCode::UNAVAILABLE, "SHUTTING_DOWN");
}

TEST_F(ServicesTest, HealthFollowsTheAgeOfTheLastStep) {
  using grpc::health::v1::HealthCheckResponse;
  for (const char* service : {"", "sessa.v1.Inference", "sessa.v1.Sessions", "sessa.v1.Admin"}) {
    EXPECT_EQ(Health(service), HealthCheckResponse::SERVING) << service;
  }
  EXPECT_EQ(Get("/healthz")->status, 200);

  CoreStatus stuck;
  stuck.serving = true;
  stuck.running = 1;
  stuck.step_age = absl::Seconds(21);
  core_->set_status(stuck);
  EXPECT_TRUE(Eventually([&] { return Health("") == HealthCheckResponse::NOT_SERVING; }));
  EXPECT_EQ(Health("sessa.v1.Inference"), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Get("/healthz")->status, 503);
  EXPECT_NE(Get("/healthz")->body.find("the engine stands still"), std::string::npos);
  v1::ServerStatus status;
  ASSERT_TRUE(Call(client_->admin.get(), &v1::Admin::Stub::GetStatus, v1::GetStatusRequest(), &status).ok());
  EXPECT_FALSE(status.serving());

  stuck.running = 0;  // old, but there is nothing to do
  core_->set_status(stuck);
  EXPECT_TRUE(Eventually([&] { return Health("") == HealthCheckResponse::SERVING; }));
  telemetry_.back().failed = true;
  EXPECT_TRUE(Eventually([&] { return Health("") == HealthCheckResponse::NOT_SERVING; }));
}

TEST_F(ServicesTest, DrainRefusesNewTurnsAndTurnsHealthOff) {
  v1::DrainResponse response;
  v1::DrainRequest request;
  request.mutable_timeout()->set_seconds(-1);
  ExpectError(Call(client_->admin.get(), &v1::Admin::Stub::Drain, request, &response),
              grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  request.mutable_timeout()->set_seconds(1);
  ASSERT_TRUE(Call(client_->admin.get(), &v1::Admin::Stub::Drain, request, &response).ok());
  v1::GenerateRequest generate;
  generate.set_text("a");
  const grpc::Status status = Generate(client_->inference.get(), generate).status;
  ExpectError(status, grpc::StatusCode::UNAVAILABLE, "DRAINING");
  EXPECT_TRUE(Details(status).has_retry);
  EXPECT_TRUE(Eventually([&] { return Health("") == grpc::health::v1::HealthCheckResponse::NOT_SERVING; }));
  EXPECT_EQ(Get("/healthz")->body, "draining\n");
}

TEST_F(ServicesTest, ABusyPortIsAnErrorThatNamesTheFlag) {
  DaemonOptions options = TestOptions();
  for (const bool grpc_port : {true, false}) {
    options.listen = grpc_port ? daemon_->grpc_address() : "127.0.0.1:0";
    options.metrics_listen = grpc_port ? "" : daemon_->metrics_address();
    ServedModel model;
    model.core = std::make_unique<FakeCore>();
    const auto second = Daemon::Start(options, std::move(model), &telemetry_.emplace_back());
    ASSERT_FALSE(second.ok());
    EXPECT_NE(second.status().message().find(grpc_port ? "--listen" : "--metrics_listen"), std::string::npos);
    EXPECT_NE(second.status().message().find("Address already in use"), std::string::npos) << second.status();
  }
}

// --- operator HTTP

TEST_F(ServicesTest, HttpPagesAnswer) {
  EXPECT_NE(Get("/")->body.find("/metrics"), std::string::npos);
  EXPECT_NE(Get("/version")->body.find("\"model\":\"letters\""), std::string::npos);
  EXPECT_EQ(Get("/nothing")->status, 404);
}

TEST_F(ServicesTest, MetricsAreWellFormed) {
  v1::GenerateRequest generate;
  generate.set_text("a");
  Generate(client_->inference.get(), generate);
  generate.mutable_sampling()->set_top_p(7);
  Generate(client_->inference.get(), generate);
  const auto response = Get("/metrics");
  ASSERT_EQ(response->status, 200);
  std::set<std::string> series, helped;
  for (absl::string_view line : absl::StrSplit(response->body, '\n', absl::SkipEmpty())) {
    if (absl::ConsumePrefix(&line, "# HELP ")) {
      helped.insert(std::string(line.substr(0, line.find(' '))));
      continue;
    }
    if (line[0] == '#') continue;
    const size_t space = line.rfind(' ');
    ASSERT_NE(space, absl::string_view::npos) << line;
    double value = 0;
    EXPECT_TRUE(line.substr(space + 1) == "+Inf" || absl::SimpleAtod(line.substr(space + 1), &value)) << line;
    EXPECT_TRUE(series.insert(std::string(line.substr(0, space))).second) << "twice: " << line;
  }
  for (const char* name :
       {"sessa_requests_running", "sessa_engine_step_age_seconds", "sessa_time_to_first_token_seconds",
        "sessa_inter_token_latency_seconds", "sessa_state_pages", "sessa_build_info",
        "process_resident_memory_bytes", "sessa_cancel_to_free_seconds"}) {
    EXPECT_EQ(helped.count(name), 1) << name;
  }
  EXPECT_NE(response->body.find("sessa_requests_total{code=\"INVALID_ARGUMENT\",finish_reason=\"none\"} 1\n"),
            std::string::npos);
}

TEST_F(ServicesTest, CountsRestoresByWhatTheyCost) {
  const auto count = [&](const std::string& outcome, const std::string& tier, int number) {
    const std::string line =
        absl::StrCat("sessa_restores_total{outcome=\"", outcome, "\",tier=\"", tier, "\"} ", number, "\n");
    EXPECT_NE(Get("/metrics")->body.find(line), std::string::npos) << line;
  };
  telemetry_.back().metrics.OnRestore({});  // a new session
  telemetry_.back().metrics.OnRestore({Restore::Tier::kDevice, 100, 0});
  telemetry_.back().metrics.OnRestore({Restore::Tier::kRecomputed, 64, 36});
  telemetry_.back().metrics.OnRestore({Restore::Tier::kRecomputed, 0, 100});
  telemetry_.back().metrics.OnRestore({Restore::Tier::kRecomputed, 0, 7});
  count("restored", "device", 1);
  count("partly_recomputed", "device", 1);
  count("recomputed", "tokens", 2);
}

TEST_F(ServicesTest, HostileNamesMakeNoSeries) {
  const auto count = [&] {
    const std::string body = Get("/metrics")->body;
    return std::count(body.begin(), body.end(), '\n');
  };
  const auto before = count();
  for (int i = 0; i < 50; ++i) {
    v1::GenerateRequest request;
    request.set_text("a");
    request.set_request_id(absl::StrCat("id-", i, "-\x01{}\n"));
    request.set_session_id(absl::StrCat("{session=\"", i, "\"}\n"));
    Generate(client_->inference.get(), request);
  }
  EXPECT_EQ(count(), before);
}

}  // namespace
}  // namespace sessa
