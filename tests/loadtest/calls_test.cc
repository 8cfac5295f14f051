// One call against a fake server in this process.
#include "loadtest/calls.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "tests/client/fake_server.h"

namespace sessa {
namespace {

// Coordinated omission: a load generator that is behind must not take its own delay out of what users wait.
TEST(TurnCall, LatenciesCountFromWhenTheTurnShouldHaveBegun) {
  FakeServer server;
  const auto channel = grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials());
  Connection connection{v1::Inference::NewStub(channel), v1::Sessions::NewStub(channel)};
  auto session = std::make_shared<LoadSession>();
  session->connection = &connection;
  grpc::CompletionQueue queue;
  Recorder recorder(absl::ZeroDuration(), absl::Hours(1), 1);
  const absl::Time now = absl::Now();
  const CallHost host{.queue = &queue, .recorder = &recorder, .start = now - absl::Hours(2)};
  bool over = false;
  TurnCall call(host, session, -1, [&](TurnCall*, const TurnCall::Outcome&) { over = true; });
  v1::GenerateRequest request;
  request.mutable_sampling()->set_max_tokens(2);
  call.Begin(request, /*scheduled=*/now - absl::Hours(1), absl::InfiniteDuration());
  void* tag = nullptr;
  for (bool ok = false; !over && queue.Next(&tag, &ok);) static_cast<Tag*>(tag)->OnEvent(ok);
  queue.Shutdown();
  for (bool ok = false; queue.Next(&tag, &ok);) {
  }
  EXPECT_EQ(recorder.outcomes().at("OK"), 1u);
  EXPECT_GE(recorder.late.min(), 3600);
  EXPECT_GE(recorder.first_token.min(), recorder.late.min());
  EXPECT_GE(recorder.whole.min(), recorder.first_token.min());
  EXPECT_LT(recorder.gap.max(), 3600);
}

}  // namespace
}  // namespace sessa
