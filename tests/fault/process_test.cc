// The daemon as a process: signals, exit codes, kill -9 in the middle of things.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "tests/fault/sessad_process.h"
#include "tests/server/test_daemon.h"

namespace sessa {
namespace {

using testing::HasSubstr;

// Room for a turn that no machine is through with before the test ends it.
constexpr char kLongContext[] = "--max_context=100000", kItsState[] = "--state_memory=2G";

v1::GenerateRequest LongTurn() {
  v1::GenerateRequest request;
  request.set_text("Mia went to the kitchen.");
  request.set_keep_session(true);
  request.mutable_sampling()->set_max_tokens(90000);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

// Streams that run until they are ended from outside.
class Streams {
 public:
  Streams(const std::string& address, int count) : client_(address) {
    for (int i = 0; i < count; ++i) {
      threads_.emplace_back([this] {
        grpc::ClientContext context;
        const auto reader = client_.inference->Generate(&context, LongTurn());
        v1::GenerateResponse message;
        Generated result;
        bool first = true;
        while (reader->Read(&message)) {
          result.Add(message);
          started_ += first;
          first = false;
        }
        result.status = reader->Finish();
        MutexLock lock(&mutex_);
        results_.push_back(std::move(result));
      });
    }
  }
  int started() const { return started_; }
  std::vector<Generated> Join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    MutexLock lock(&mutex_);
    return results_;
  }

 private:
  Client client_;
  std::atomic<int> started_{0};
  std::vector<std::thread> threads_;
  Mutex mutex_;
  std::vector<Generated> results_ ABSL_GUARDED_BY(mutex_);
};

TEST(ProcessTest, ServesAndEndsOnSigterm) {
  SessadProcess sessad({"--state_memory=64M"});
  ASSERT_TRUE(sessad.listening()) << sessad.log();
  sessad.Signal(SIGTERM);
  EXPECT_EQ(sessad.Wait(), 0) << sessad.log();
}

TEST(ProcessTest, ABadFlagOrModelIsExitCodeOne) {
  for (const char* flag :
       {"--durability=power", "--model=/no/such/folder", "--max_waiting=0", "--backend=none"}) {
    SessadProcess sessad({flag});
    EXPECT_FALSE(sessad.listening());
    EXPECT_EQ(sessad.Wait(), 1) << flag;
    const std::string name(flag, std::string(flag).find('='));
    EXPECT_THAT(sessad.log(), HasSubstr(name));
  }
}

TEST(ProcessTest, ABusyPortIsExitCodeOne) {
  SessadProcess first({"--state_memory=64M"});
  ASSERT_TRUE(first.listening()) << first.log();
  SessadProcess second({"--state_memory=64M", "--listen=" + first.grpc_address()});
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_THAT(second.log(), HasSubstr("Address already in use"));
}

TEST(ProcessTest, ADrainEndsEveryStreamAndTheProcess) {
  SessadProcess sessad({kLongContext, kItsState, "--drain_timeout=300ms"});
  ASSERT_TRUE(sessad.listening()) << sessad.log();
  Streams streams(sessad.grpc_address(), 20);
  ASSERT_TRUE(Eventually([&] { return streams.started() == 20; }));
  sessad.Signal(SIGTERM);
  EXPECT_EQ(sessad.Wait(), 0) << sessad.log();
  for (const Generated& result : streams.Join()) {
    EXPECT_TRUE(result.status.ok()) << result.status.error_message();
    EXPECT_EQ(result.finished, 1);
    ASSERT_GE(result.messages.size(), 2);
    EXPECT_EQ(result.messages[result.messages.size() - 2].sample_finished().reason(),
              v1::FINISH_REASON_DRAINED);
  }
}

// One step of minutes, the first after a pause: as if the device hung.
TEST(ProcessTest, AStepThatDoesNotEndIsSeenAndDoesNotKeepTheProcess) {
  SessadProcess sessad({"--backend=reference", "--max_context=32768", "--max_batch_tokens=32768",
                        "--state_memory=1G", "--stall_timeout=10ms", "--drain_timeout=0s"});
  ASSERT_TRUE(sessad.listening()) << sessad.log();
  Client client(sessad.grpc_address());
  v1::GenerateRequest request;
  for (int i = 0; i < 32000; ++i) request.mutable_token_ids()->add_ids(3 + i % 1000);
  grpc::ClientContext context;
  const auto reader = client.inference->Generate(&context, request);
  v1::ServerStatus status;
  EXPECT_TRUE(Eventually([&] {
    grpc::ClientContext status_context;
    EXPECT_TRUE(client.admin->GetStatus(&status_context, v1::GetStatusRequest(), &status).ok());
    return !status.serving();
  })) << "the hanging step is not seen";
  EXPECT_THAT(status.not_serving_reason(), HasSubstr("the engine stands still"));
  sessad.Signal(SIGTERM);
  EXPECT_EQ(sessad.Wait(absl::Seconds(30)), 2) << sessad.log();
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

TEST(ProcessTest, ADrainByRpcWaitsForTheSignal) {
  SessadProcess sessad({"--state_memory=256M"});
  ASSERT_TRUE(sessad.listening()) << sessad.log();
  Client client(sessad.grpc_address());
  for (int i = 0; i < 2; ++i) {  // the second one has nothing left to do
    grpc::ClientContext context;
    v1::DrainRequest request;
    v1::DrainResponse response;
    request.mutable_timeout()->set_seconds(1);
    EXPECT_TRUE(client.admin->Drain(&context, request, &response).ok());
  }
  ExpectError(Generate(client.inference.get(), LongTurn()).status, grpc::StatusCode::UNAVAILABLE, "DRAINING");
  EXPECT_EQ(sessad.Wait(absl::Milliseconds(100)), -1) << "it still answers";
  sessad.Signal(SIGTERM);
  EXPECT_EQ(sessad.Wait(), 0) << sessad.log();
}

TEST(ProcessTest, ACrashLeavesAStack) {
  SessadProcess sessad({"--state_memory=64M"});
  ASSERT_TRUE(sessad.listening()) << sessad.log();
  sessad.Signal(SIGSEGV);
  EXPECT_EQ(sessad.Wait(), 128 + SIGSEGV);
  // The main thread waits for signals in Run.
  EXPECT_TRUE(Eventually([&] { return sessad.log().find("::Run()") != std::string::npos; })) << sessad.log();
  EXPECT_THAT(sessad.log(), HasSubstr("sessad crashed: SIGSEGV"));
}

TEST(ProcessTest, ASecondSignalEndsItAtOnce) {
  SessadProcess sessad({kLongContext, kItsState, "--drain_timeout=600s"});
  ASSERT_TRUE(sessad.listening()) << sessad.log();
  Streams streams(sessad.grpc_address(), 60);
  ASSERT_TRUE(Eventually([&] { return streams.started() == 60; }));
  sessad.Signal(SIGTERM);
  ASSERT_TRUE(Eventually([&] { return sessad.log().find("draining") != std::string::npos; }));
  sessad.Signal(SIGINT);
  EXPECT_EQ(sessad.Wait(), 2) << sessad.log();
  for (const Generated& result : streams.Join()) {
    EXPECT_EQ(result.finished, result.status.ok() ? 1 : 0);
  }
}

TEST(ProcessTest, KillAndRestartIsClean) {
  auto first = std::make_unique<SessadProcess>(std::vector<std::string>{kLongContext, kItsState});
  ASSERT_TRUE(first->listening()) << first->log();
  const std::string address = first->grpc_address();
  Streams streams(address, 20);
  ASSERT_TRUE(Eventually([&] { return streams.started() == 20; }));
  first->Signal(SIGKILL);
  EXPECT_EQ(first->Wait(), 128 + SIGKILL);
  std::string session;
  for (const Generated& result : streams.Join()) {
    EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE) << "ended by the client library";
    EXPECT_EQ(result.finished, 0);
    session = result.session_id;
  }

  SessadProcess second({"--state_memory=256M", "--listen=" + address});
  ASSERT_TRUE(second.listening()) << second.log();
  Client client(address);
  v1::GenerateRequest request = LongTurn();
  request.mutable_sampling()->set_max_tokens(3);
  EXPECT_TRUE(Generate(client.inference.get(), request).status.ok());
  request.set_session_id(session);  // --durability=none: it is gone, and the answer says so
  ExpectError(Generate(client.inference.get(), request).status, grpc::StatusCode::NOT_FOUND,
              "SESSION_NOT_FOUND");
  second.Signal(SIGTERM);
  EXPECT_EQ(second.Wait(), 0);
}

TEST(ProcessTest, ATestThatIsKilledLeavesNoDaemon) {
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);  // its daemon becomes a child of this process
  int started[2];
  ASSERT_EQ(pipe(started), 0);
  const pid_t test = fork();
  if (test == 0) {
    SessadProcess sessad({"--state_memory=64M"});
    const int pid = sessad.listening() ? sessad.pid() : -1;
    if (write(started[1], &pid, sizeof pid) != sizeof pid) _exit(1);
    raise(SIGKILL);
  }
  close(started[1]);
  int daemon = -1;
  ASSERT_EQ(read(started[0], &daemon, sizeof daemon), sizeof daemon);
  ASSERT_GT(daemon, 0);
  close(started[0]);
  ASSERT_EQ(waitpid(test, nullptr, 0), test);
  int status = 0;
  const bool ended = Eventually([&] { return waitpid(daemon, &status, WNOHANG) == daemon; });
  if (!ended) kill(daemon, SIGKILL);
  EXPECT_TRUE(ended && WIFSIGNALED(status));
}

}  // namespace
}  // namespace sessa
