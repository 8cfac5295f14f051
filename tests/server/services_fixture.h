// A daemon whose core does what a test says, and a client of it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "tests/server/fake_core.h"
#include "tests/server/letters_model.h"
#include "tests/server/test_daemon.h"

namespace sessa {

class ServicesTest : public testing::Test {
 protected:
  void SetUp() override { Start(); }

  void Start(DaemonOptions options = TestOptions()) {
    daemon_.reset();
    auto core = std::make_unique<FakeCore>();
    core_ = core.get();
    ServedModel model = LettersModel(std::move(core));
    tokenizer_ = std::static_pointer_cast<const LettersTokenizer>(model.tokenizer);
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

  std::deque<Telemetry> telemetry_;
  FakeCore* core_ = nullptr;
  std::shared_ptr<const LettersTokenizer> tokenizer_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Client> client_;
};

}  // namespace sessa
