#include "server/daemon.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "server/admin_service.h"
#include "server/housekeeper.h"
#include "server/inference_service.h"
#include "server/listen_error.h"
#include "server/log.h"
#include "server/operator_http.h"
#include "server/sessions_service.h"
#include "server/version.h"

namespace sessa {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr std::chrono::milliseconds kShutdownGrace(1000);
constexpr int64_t kScoreRequests = 4;  // of the largest size, to be tokenised at once
constexpr const char* kServiceNames[] = {"", "sessa.v1.Inference", "sessa.v1.Sessions", "sessa.v1.Admin"};

// Why each: gotchas of gRPC 1.51 that were measured.
void SetChannelArguments(const DaemonOptions& options, grpc::ServerBuilder* builder) {
  // A second daemon on the same port must fail instead of sharing the port.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Compressed messages are refused by name; a small one may inflate to gigabytes before its size is checked.
  builder->AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16 << 10);
  // Find dead peers within a minute, and let clients look for us as often as every ten seconds.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 40'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder->SetMaxReceiveMessageSize(options.max_request_bytes);
}

std::string VersionJson(const v1::Model& model) {
  nlohmann::ordered_json json;
  json["version"] = std::string(kVersion);
  json["commit"] = std::string(kCommit);
  json["build_type"] = std::string(kBuildType);
  json["model"] = model.name();
  json["backend"] = model.backend();
  return json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

}  // namespace

struct Daemon::Parts {
  Parts(const DaemonOptions& daemon_options, ServedModel served, Telemetry* hooks)
      : options(daemon_options),
        telemetry(hooks),
        model(std::move(served)),
        status(model.core.get(), &hooks->steps,
               {model.description, model.core_options.max_waiting, options.stall_timeout}),
        inference({model.core.get(), &registry, &hooks->metrics, model.tokenizer.get(),
                   options.slow_reader_timeout, &model.limits},
                  model.description,
                  {model.core_options.max_waiting, kScoreRequests * options.max_request_bytes}),
        sessions(model.core.get(), options.idle_session_ttl),
        admin(
            &status,
            [this](absl::Duration timeout, std::function<void()> done) {
              model.core->Drain(absl::Now() + timeout, std::move(done));
            },
            options.drain_timeout) {}

  std::string NotServingReason() const {
    if (!telemetry->failure().ok()) return "DEVICE_FAILED";
    return StatusSource::NotServingReason(model.core->Status(), options.stall_timeout);
  }
  absl::Status Listen();
  absl::Status ListenHttp();
  void UpdateHealth();
  void StartHousekeeping();

  const DaemonOptions options;
  Telemetry* const telemetry;
  ServedModel model;
  TurnRegistry registry;
  StatusSource status;
  InferenceService inference;
  SessionsService sessions;
  AdminService admin;
  MemoryTrimmer trimmer;
  std::string last_reason = "starting";  // housekeeping thread only
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<OperatorHttp> http;
  std::string grpc_address, metrics_address;
  Housekeeper housekeeper{kTick};
};

absl::Status Daemon::Parts::Listen() {
  const bool is_unix = absl::StartsWith(options.listen, "unix:");
  if (is_unix && IsUnixAddressTaken(options.listen)) {
    return absl::UnavailableError(
        absl::StrCat("--listen: cannot listen on ", options.listen, ": Address already in use"));
  }
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetChannelArguments(options, &builder);
  int port = 0;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&inference);
  builder.RegisterService(&sessions);
  builder.RegisterService(&admin);
  server = builder.BuildAndStart();
  if (server == nullptr || (port == 0 && !is_unix)) {
    const auto address = ParseHostPort(options.listen);
    return absl::UnavailableError(
        absl::StrCat("--listen: cannot listen on ", options.listen, ": ",
                     address.ok() ? WhyCannotListen(*address) : "is the path writable?"));
  }
  if (is_unix) {
    grpc_address = options.listen;
  } else {
    grpc_address = absl::StrCat(options.listen.substr(0, options.listen.rfind(':')), ":", port);
  }
  return absl::OkStatus();
}

absl::Status Daemon::Parts::ListenHttp() {
  if (options.metrics_listen.empty()) return absl::OkStatus();
  const auto address = ParseHostPort(options.metrics_listen);
  if (!address.ok()) return address.status();
  OperatorHttp::Pages pages;
  pages.metrics = [this] { return telemetry->metrics.Render(model.core->Status()); };
  pages.health = [this] { return NotServingReason(); };
  pages.version = VersionJson(model.description);
  auto started = OperatorHttp::Start(address->host, address->port, std::move(pages));
  if (!started.ok()) {
    return absl::UnavailableError(absl::StrCat("--metrics_listen: ", started.status().message()));
  }
  http = *std::move(started);
  metrics_address =
      absl::StrCat(options.metrics_listen.substr(0, options.metrics_listen.rfind(':')), ":", http->port());
  return absl::OkStatus();
}

void Daemon::Parts::UpdateHealth() {
  const std::string reason = NotServingReason();
  if (reason.empty() == last_reason.empty()) return;
  last_reason = reason;
  for (const char* name : kServiceNames)
    server->GetHealthCheckService()->SetServingStatus(name, reason.empty());
  if (reason.empty()) {
    Log(LogLevel::kInfo, "serving");
  } else {
    Log(LogLevel::kWarning, "not serving", {{"reason", reason}});
  }
}

void Daemon::Parts::StartHousekeeping() {
  UpdateHealth();
  housekeeper.Add([this](absl::Time) { UpdateHealth(); });
  housekeeper.Add([this](absl::Time) { status.Tick(); });
  housekeeper.Add([this](absl::Time now) { admin.Tick(now); });
  housekeeper.Add([this](absl::Time now) { inference.CheckReaders(now); });
  housekeeper.Add([this](absl::Time now) { registry.CheckReaders(now); });
  housekeeper.Add([this](absl::Time now) { trimmer.Tick(now); });
  housekeeper.Start();
}

Daemon::Daemon(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonOptions& options, ServedModel model,
                                                      Telemetry* telemetry) {
  telemetry->metrics.SetBuildInfo({kVersion, kCommit, model.description.backend(), model.description.name()});
  std::unique_ptr<Daemon> daemon(new Daemon(std::make_unique<Parts>(options, std::move(model), telemetry)));
  Parts& parts = *daemon->parts_;
  if (absl::Status status = parts.Listen(); !status.ok()) return status;
  if (absl::Status status = parts.ListenHttp(); !status.ok()) return status;
  parts.StartHousekeeping();
  return daemon;
}

Daemon::~Daemon() {
  Parts& parts = *parts_;
  parts.housekeeper.Stop();
  if (parts.server != nullptr) {
    parts.server->GetHealthCheckService()->SetServingStatus(false);
    parts.admin.CloseStreams();
    // Streams whose turns are over get this long to be read; the rest is cancelled, which cancels their
    // turns.
    parts.server->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
    parts.server->Wait();
  }
  parts.http.reset();
  parts.model.core.reset();  // before the telemetry that its hooks write to
}

std::string Daemon::grpc_address() const { return parts_->grpc_address; }
std::string Daemon::metrics_address() const { return parts_->metrics_address; }
const v1::Model& Daemon::model() const { return parts_->model.description; }
Core& Daemon::core() { return *parts_->model.core; }

void Daemon::Drain(absl::Duration timeout, std::function<void()> done) {
  parts_->model.core->Drain(absl::Now() + timeout, std::move(done));
}

std::string Daemon::NotServingReason() const { return parts_->NotServingReason(); }

}  // namespace sessa
