// A daemon in the test's process, on free ports, and a client of it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/daemon.h"
#include "sessa/v1/admin.grpc.pb.h"
#include "sessa/v1/inference.grpc.pb.h"
#include "sessa/v1/sessions.grpc.pb.h"

namespace sessa {

// The flags' defaults, on free ports and with little state memory. Change before StartDaemon.
inline DaemonOptions TestOptions() {
  DaemonOptions options;
  options.model_dir = "models/sessa-recall-7m";
  options.listen = "127.0.0.1:0";
  options.metrics_listen = "127.0.0.1:0";
  options.backend = "auto";
  options.cpu_threads = 1;
  options.tokenizer_threads = 2;
  options.state_memory = 256 << 20;
  options.state_dtype = "auto";
  options.max_batch_tokens = 512;
  options.max_batch_sessions = 256;
  options.max_waiting = 1024;
  options.max_sessions = 1000;
  options.drain_timeout = absl::Seconds(5);
  options.slow_reader_timeout = absl::Seconds(30);
  options.stall_timeout = absl::Seconds(20);
  options.idle_state_ttl = absl::Minutes(10);
  options.idle_session_ttl = absl::Hours(24);
  options.max_request_bytes = 4 << 20;
  options.max_streams_per_connection = 1024;
  options.log_format = "text";
  return options;
}

// A connection to a daemon that listens.
struct Client {
  explicit Client(const std::string& address, grpc::ChannelArguments args = grpc::ChannelArguments()) {
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);          // to this machine, whatever the environment says
    channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
    // gRPC 1.51 may take its first attempt for a refused one (grpc/grpc 35064), and fail the calls that wait.
    EXPECT_TRUE(channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(30)));
    inference = v1::Inference::NewStub(channel);
    sessions = v1::Sessions::NewStub(channel);
    admin = v1::Admin::NewStub(channel);
  }
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Inference::Stub> inference;
  std::unique_ptr<v1::Sessions::Stub> sessions;
  std::unique_ptr<v1::Admin::Stub> admin;
};

// A finished Generate call.
struct Generated {
  grpc::Status status;
  std::vector<v1::GenerateResponse> messages;
  std::string text;                // of sample 0
  std::vector<int32_t> token_ids;  // of sample 0
  std::string session_id;
  int finished = 0;  // messages of that kind

  void Add(const v1::GenerateResponse& message) {
    messages.push_back(message);
    if (message.has_started()) session_id = message.started().session_id();
    if (message.has_finished()) ++finished;
    if (!message.has_delta() || message.delta().index() != 0) return;
    text += message.delta().text();
    token_ids.insert(token_ids.end(), message.delta().token_ids().begin(), message.delta().token_ids().end());
  }
};

inline Generated Generate(v1::Inference::Stub* stub, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  Generated result;
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse message;
  while (reader->Read(&message)) result.Add(message);
  result.status = reader->Finish();
  return result;
}

// The google.rpc details of an error.
struct Details {
  google::rpc::ErrorInfo info;
  google::rpc::RetryInfo retry;
  google::rpc::BadRequest bad_request;
  google::rpc::ResourceInfo resource;
  bool has_info = false, has_retry = false, has_bad_request = false, has_resource = false;

  explicit Details(const grpc::Status& status) {
    google::rpc::Status rich;
    EXPECT_TRUE(rich.ParseFromString(status.error_details()));
    EXPECT_EQ(rich.code(), status.error_code());
    EXPECT_EQ(rich.message(), status.error_message());
    for (const auto& any : rich.details()) {
      has_info |= any.UnpackTo(&info);
      has_retry |= any.UnpackTo(&retry);
      has_bad_request |= any.UnpackTo(&bad_request);
      has_resource |= any.UnpackTo(&resource);
    }
  }
};

// An error of ours: the code, and ErrorInfo with this reason.
inline void ExpectError(const grpc::Status& status, grpc::StatusCode code, const std::string& reason) {
  EXPECT_EQ(status.error_code(), code) << status.error_message();
  const Details details(status);
  EXPECT_TRUE(details.has_info) << status.error_message();
  EXPECT_EQ(details.info.reason(), reason) << status.error_message();
  EXPECT_EQ(details.info.domain(), "sessa.v1");
  EXPECT_FALSE(status.error_message().empty());
}

// Waits for something that another thread brings about; false after a minute, which only ends what hangs.
template <class Condition>
bool Eventually(Condition condition) {
  for (int i = 0; i < 6000; ++i) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return condition();
}

}  // namespace sessa
