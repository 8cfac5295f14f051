// Tokenize and Detokenize: what they may take of the server.
#include <grpcpp/generic/generic_stub.h>

#include <atomic>
#include <thread>

#include "tests/server/services_fixture.h"

namespace sessa {
namespace {

constexpr size_t kMebibyte = 1 << 20;  // the longest text that Tokenize takes

class TokenCallsTest : public ServicesTest {
 protected:
  // Holds the pool's only thread up until it opens.
  class Gate {
   public:
    explicit Gate(FakeCore* core) {
      core->Post([state = state_] {
        MutexLock lock(&state->mutex);
        while (!state->open) state->opened.Wait(&state->mutex);
      });
    }
    ~Gate() { Open(); }
    void Open() {
      MutexLock lock(&state_->mutex);
      state_->open = true;
      state_->opened.SignalAll();
    }

   private:
    struct State {  // outlives the gate: the thread still leaves it
      Mutex mutex;
      CondVar opened;
      bool open ABSL_GUARDED_BY(mutex) = false;
    };
    const std::shared_ptr<State> state_ = std::make_shared<State>();
  };

  // A Tokenize call that is sent, and whose answer is not read before Finish.
  class Open {
   public:
    Open(const std::shared_ptr<grpc::Channel>& channel, const v1::TokenizeRequest& request) {
      const grpc::Slice bytes(request.SerializeAsString());
      call_ = grpc::GenericStub(channel).PrepareCall(&context_, "/sessa.v1.Inference/Tokenize", &queue_);
      call_->StartCall(nullptr);
      Wait();
      call_->WriteLast(grpc::ByteBuffer(&bytes, 1), grpc::WriteOptions(), nullptr);
      Wait();
    }
    void Cancel() { context_.TryCancel(); }
    grpc::Status Finish() {
      grpc::ByteBuffer answer;
      call_->Read(&answer, nullptr);
      Wait();
      grpc::Status status;
      call_->Finish(&status, nullptr);
      Wait();
      return status;
    }

   private:
    void Wait() {
      void* tag = nullptr;
      bool ok = false;
      queue_.Next(&tag, &ok);
    }

    grpc::ClientContext context_;
    grpc::CompletionQueue queue_;
    std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  };
  std::unique_ptr<Open> Begin(const v1::TokenizeRequest& request) {
    return std::make_unique<Open>(client_->channel, request);
  }

  static v1::TokenizeRequest Request(size_t bytes) {
    v1::TokenizeRequest request;
    request.set_text(std::string(bytes, 'a'));
    return request;
  }
  grpc::Status Tokenize(size_t bytes) {
    v1::TokenizeResponse response;
    return Call(client_->inference.get(), &v1::Inference::Stub::Tokenize, Request(bytes), &response);
  }
};

TEST_F(TokenCallsTest, WhatIsTooMuchIsShed) {
  Gate gate(core_);
  std::vector<std::unique_ptr<Open>> calls;
  for (int i = 0; i < 3; ++i) calls.push_back(Begin(Request(kMebibyte)));
  // Of two more, one finds no room.
  std::atomic<int> refused{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 2; ++i) {
    clients.emplace_back([&] {
      const grpc::Status status = Tokenize(kMebibyte);
      if (status.ok()) return;
      ++refused;
      ExpectError(status, grpc::StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL");
      EXPECT_TRUE(Details(status).has_retry);
    });
  }
  EXPECT_TRUE(Eventually([&] { return refused == 1; }));
  gate.Open();
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(refused, 1);
  for (const auto& call : calls) {
    const grpc::Status end = call->Finish();
    EXPECT_TRUE(end.ok()) << end.error_message();
  }
  EXPECT_TRUE(Eventually([&] { return Tokenize(kMebibyte).ok(); }));
}

TEST_F(TokenCallsTest, CancelledOnesAreNotTokenised) {
  constexpr int kCalls = 20;
  {
    Gate gate(core_);
    for (int i = 0; i < kCalls; ++i) {
      const auto call = Begin(Request(10));
      EXPECT_TRUE(Eventually([&] { return core_->text_works() == i + 1; }));
      call->Cancel();
      EXPECT_EQ(call->Finish().error_code(), grpc::StatusCode::CANCELLED);
    }
    v1::Model model;
    EXPECT_TRUE(
        Call(client_->inference.get(), &v1::Inference::Stub::GetModel, v1::GetModelRequest(), &model).ok());
  }
  EXPECT_TRUE(Tokenize(10).ok()) << "behind all of them";
  EXPECT_LT(tokenizer_->encoded, kCalls);
}

// A client may read nothing of its answer, which is much larger than the text.
TEST_F(TokenCallsTest, AnswersThatNobodyTakesAreGivenUp) {
  DaemonOptions options = TestOptions();
  options.slow_reader_timeout = absl::Milliseconds(200);
  Start(options);
  grpc::ChannelArguments small;
  small.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // the window stays as it is
  client_ = std::make_unique<Client>(daemon_->grpc_address(), small);
  std::vector<std::unique_ptr<Open>> calls;
  v1::TokenizeRequest request = Request(kMebibyte);
  request.set_with_pieces(true);
  for (int i = 0; i < 4; ++i) calls.push_back(Begin(request));
  EXPECT_TRUE(Eventually([&] { return tokenizer_->encoded == 4; }));
  const std::unique_ptr<Client> stalled =
      std::exchange(client_, std::make_unique<Client>(daemon_->grpc_address()));
  EXPECT_TRUE(Eventually([&] { return Tokenize(kMebibyte).ok(); }));
  for (const auto& call : calls) EXPECT_NE(call->Finish().error_code(), grpc::StatusCode::OK);
}

TEST_F(TokenCallsTest, DetokenizesOnThePoolToo) {
  v1::DetokenizeRequest request;
  request.add_token_ids('a');
  v1::DetokenizeResponse response;
  grpc::Status status;
  Gate gate(core_);
  std::thread caller(
      [&] { status = Call(client_->inference.get(), &v1::Inference::Stub::Detokenize, request, &response); });
  v1::Model model;
  EXPECT_TRUE(
      Call(client_->inference.get(), &v1::Inference::Stub::GetModel, v1::GetModelRequest(), &model).ok());
  gate.Open();
  caller.join();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.text(), "a");

  for (size_t i = 0; i < kMebibyte; ++i) request.add_token_ids('a');
  const grpc::Status many =
      Call(client_->inference.get(), &v1::Inference::Stub::Detokenize, request, &response);
  ExpectError(many, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  EXPECT_EQ(Details(many).bad_request.field_violations(0).field(), "token_ids");
}

}  // namespace
}  // namespace sessa
