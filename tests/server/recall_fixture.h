// The embedded model behind a whole daemon, and the prompts whose answers are known.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/base/clock.h"
#include "tests/server/test_daemon.h"

namespace sessa {

struct Prompt {
  std::string text;
  std::vector<int32_t> ids;  // of the text, BOS in front
  std::vector<int32_t> answer_ids;
  std::string answer;
};

inline std::vector<Prompt> ReadPrompts() {
  std::ifstream file("tests/golden/recall_prompts.json");
  std::vector<Prompt> prompts;
  for (const auto& entry : nlohmann::json::parse(file)) {
    prompts.push_back({entry.at("prompt"), entry.at("prompt_token_ids"), entry.at("greedy_token_ids"),
                       entry.at("greedy_text")});
  }
  return prompts;
}

class RecallTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    telemetry_ = new Telemetry;
    auto model = LoadServedModel(TestOptions(), telemetry_->Hooks(), Clock::Real());
    ASSERT_TRUE(model.ok()) << model.status();
    auto daemon = Daemon::Start(TestOptions(), *std::move(model), telemetry_);
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = daemon->release();
    client_ = new Client(daemon_->grpc_address());
    prompts_ = new std::vector<Prompt>(ReadPrompts());
    ASSERT_EQ(prompts_->size(), 28);
  }
  static void TearDownTestSuite() {
    delete prompts_;
    delete client_;
    delete daemon_;
    delete telemetry_;
  }

  // Whatever the test did, no page is lost.
  void TearDown() override {
    EXPECT_TRUE(Eventually([] { return daemon_->core().Status().running == 0; }));
    EXPECT_EQ(daemon_->core().Status().orphan_pages, 0);
  }

  static bool Full() { return std::getenv("SESSA_FULL") != nullptr; }

  static v1::GenerateRequest Ask(const Prompt& prompt) {
    v1::GenerateRequest request;
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_max_tokens(static_cast<int32_t>(prompt.answer_ids.size()));
    return request;
  }
  static void SetIds(const std::vector<int32_t>& ids, size_t begin, size_t end,
                     v1::GenerateRequest* request) {
    request->mutable_token_ids()->clear_ids();
    for (size_t i = begin; i < end; ++i) request->mutable_token_ids()->add_ids(ids[i]);
  }
  // Appends the first turn to a new session and returns its ID.
  static std::string Tell(v1::GenerateRequest request) {
    request.set_keep_session(true);
    request.mutable_sampling()->set_max_tokens(0);
    const Generated told = Generate(client_->inference.get(), request);
    EXPECT_TRUE(told.status.ok()) << told.status.error_message();
    EXPECT_TRUE(told.token_ids.empty());
    EXPECT_EQ(told.finished, 1);
    return told.session_id;
  }
  static void Forget(const std::string& session) {
    grpc::ClientContext context;
    v1::DeleteSessionRequest request;
    v1::DeleteSessionResponse response;
    request.set_session_id(session);
    EXPECT_TRUE(client_->sessions->DeleteSession(&context, request, &response).ok());
  }
  static void ExpectAnswer(const Generated& result, const Prompt& prompt) {
    ASSERT_TRUE(result.status.ok()) << result.status.error_message();
    EXPECT_EQ(result.token_ids, prompt.answer_ids) << result.text;
    EXPECT_EQ(result.text, prompt.answer);
    EXPECT_EQ(result.finished, 1);
  }

  inline static Telemetry* telemetry_ = nullptr;
  inline static Daemon* daemon_ = nullptr;
  inline static Client* client_ = nullptr;
  inline static std::vector<Prompt>* prompts_ = nullptr;
};

}  // namespace sessa
