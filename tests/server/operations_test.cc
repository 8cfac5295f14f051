// What operators use: status, health, drain, HTTP pages and metrics.
#include <httplib.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/server/services_fixture.h"

namespace sessa {
namespace {

class OperationsTest : public ServicesTest {
 protected:
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
};

// --- Admin, health, drain

TEST_F(OperationsTest, TellsItsStatus) {
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

TEST_F(OperationsTest, WatchesTheStatus) {
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

TEST_F(OperationsTest, StoppingEndsAWatch) {
  grpc::ClientContext context;
  const auto reader = client_->admin->WatchStatus(&context, v1::WatchStatusRequest());
  v1::ServerStatus status;
  ASSERT_TRUE(reader->Read(&status));
  daemon_.reset();
  while (reader->Read(&status)) {
  }
  ExpectError(reader->Finish(), grpc::StatusCode::UNAVAILABLE, "SHUTTING_DOWN");
}

TEST_F(OperationsTest, HealthFollowsTheAgeOfTheLastStep) {
  using grpc::health::v1::HealthCheckResponse;
  for (const char* service : {"", "sessa.v1.Inference", "sessa.v1.Sessions", "sessa.v1.Admin"}) {
    EXPECT_EQ(Health(service), HealthCheckResponse::SERVING) << service;
  }
  EXPECT_EQ(Get("/healthz")->status, 200);

  CoreStatus stuck;
  stuck.serving = true;  // and no turn is counted: this is the first step after a pause
  stuck.step_age = absl::Seconds(21);
  core_->set_status(stuck);
  // The names turn one after the other, this one last.
  EXPECT_TRUE(Eventually([&] { return Health("sessa.v1.Admin") == HealthCheckResponse::NOT_SERVING; }));
  EXPECT_EQ(Health("sessa.v1.Inference"), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Health(""), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Get("/healthz")->status, 503);
  EXPECT_NE(Get("/healthz")->body.find("the engine stands still"), std::string::npos);
  v1::ServerStatus status;
  ASSERT_TRUE(Call(client_->admin.get(), &v1::Admin::Stub::GetStatus, v1::GetStatusRequest(), &status).ok());
  EXPECT_FALSE(status.serving());

  stuck.step_age = absl::ZeroDuration();
  core_->set_status(stuck);
  EXPECT_TRUE(Eventually([&] { return Health("") == HealthCheckResponse::SERVING; }));
  telemetry_.back().Hooks().on_fatal(absl::InternalError("a device fault"));
  EXPECT_TRUE(Eventually([&] { return Health("") == HealthCheckResponse::NOT_SERVING; }));
}

TEST_F(OperationsTest, DrainRefusesNewTurnsAndTurnsHealthOff) {
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
  EXPECT_EQ(Get("/healthz")->body, "DRAINING\n");
}

TEST_F(OperationsTest, ABusyPortIsAnErrorThatNamesTheFlag) {
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

TEST_F(OperationsTest, HttpPagesAnswer) {
  EXPECT_NE(Get("/")->body.find("/metrics"), std::string::npos);
  EXPECT_NE(Get("/version")->body.find("\"model\":\"letters\""), std::string::npos);
  EXPECT_EQ(Get("/nothing")->status, 404);
}

TEST_F(OperationsTest, MetricsAreWellFormed) {
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

TEST_F(OperationsTest, CountsRestoresByWhatTheyCost) {
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

TEST_F(OperationsTest, CountsThePhasesThatATurnHad) {
  const auto counts = [&](int queue, int prefill, int decode) {
    const std::string body = Get("/metrics")->body;
    const std::pair<const char*, int> families[] = {{"sessa_request_queue_time_seconds", queue},
                                                    {"sessa_request_prefill_time_seconds", prefill},
                                                    {"sessa_request_prompt_tokens", prefill},
                                                    {"sessa_request_decode_time_seconds", decode},
                                                    {"sessa_time_to_first_token_seconds", decode}};
    for (const auto& [family, count] : families) {
      const std::string line = absl::StrCat("\n", family, "_count ", count, "\n");
      EXPECT_NE(body.find(line), std::string::npos) << line;
    }
  };
  TurnReport report;
  report.reason = FinishReason::kCancelled;
  telemetry_.back().metrics.OnTurn(report);
  counts(0, 0, 0);
  report.started = true;  // a prompt that is only appended
  report.reason = FinishReason::kLength;
  telemetry_.back().metrics.OnTurn(report);
  counts(1, 1, 0);
  report.time_to_first_token = absl::Milliseconds(5);
  telemetry_.back().metrics.OnTurn(report);
  counts(2, 2, 1);
}

TEST_F(OperationsTest, RefusesCompressedMessagesByName) {
  for (const auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    v1::TokenizeRequest request;
    request.set_text(std::string(1000, 'a'));  // short ones are not compressed
    v1::TokenizeResponse response;
    const grpc::Status status = client_->inference->Tokenize(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_NE(status.error_message().find(algorithm == GRPC_COMPRESS_GZIP ? "gzip" : "deflate"),
              std::string::npos)
        << status.error_message();
  }
}

TEST_F(OperationsTest, APathThatIsListenedOnIsNotTakenOver) {
  DaemonOptions options = TestOptions();
  options.metrics_listen = "";
  const std::string path = absl::StrCat(testing::TempDir(), "/sessad-", getpid(), ".sock");
  for (const char* prefix : {"unix:", "unix://"}) {
    options.listen = prefix + path;
    ServedModel model = LettersModel(std::make_unique<FakeCore>());
    auto first = Daemon::Start(options, std::move(model), &telemetry_.emplace_back());
    ASSERT_TRUE(first.ok()) << first.status();
    model = LettersModel(std::make_unique<FakeCore>());
    const auto second = Daemon::Start(options, std::move(model), &telemetry_.emplace_back());
    EXPECT_EQ(second.status().message(),
              absl::StrCat("--listen: cannot listen on ", options.listen, ": Address already in use"));
    v1::Model described;
    EXPECT_TRUE(Call(Client(options.listen).inference.get(), &v1::Inference::Stub::GetModel,
                     v1::GetModelRequest(), &described)
                    .ok());
  }
}

TEST_F(OperationsTest, HostileNamesMakeNoSeries) {
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
