// 200 streams at once, a fifth cancelled at random points, a twentieth stalled: every request has exactly one
// end, and afterwards every page is free and memory is what it was. SESSA_SOAK_SECONDS sets how long (8).
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <random>
#include <thread>

#include "absl/time/clock.h"
#include "tests/fault/sessad_process.h"
#include "tests/server/test_daemon.h"

namespace sessa {
namespace {

constexpr int kStreams = 200;
constexpr int kConnections = 8;
constexpr double kCancelled = 0.20, kStalled = 0.05, kKept = 0.3;
constexpr int kMaxPrompt = 60, kMaxTokens = 60;  // of a turn that does not stall
constexpr int kMaxSession = 1900;                // and one more turn: below the model's 2,048

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kMeasureMemory = false;  // freed memory stays in quarantine
#else
constexpr bool kMeasureMemory = true;
#endif

struct Counts {
  std::atomic<int64_t> calls{0}, finished{0}, cancelled{0}, slow{0}, busy{0}, wrong{0};
};

class User {
 public:
  User(Client* client, int seed, absl::Time end, Counts* counts)
      : client_(client), random_(seed), end_(end), counts_(counts) {}

  void Run() {
    while (absl::Now() < end_) Turn();
    if (!session_.empty()) Forget();
  }

 private:
  bool Chance(double probability) {
    return std::uniform_real_distribution<double>(0, 1)(random_) < probability;
  }
  int Below(int limit) { return std::uniform_int_distribution<int>(0, limit - 1)(random_); }

  v1::GenerateRequest MakeRequest(bool stalls) {
    v1::GenerateRequest request;
    const bool keep = !stalls && Chance(kKept);
    if (!session_.empty()) {
      request.set_session_id(session_);
    } else {
      request.set_keep_session(keep);
    }
    for (int i = 1 + Below(kMaxPrompt); i > 0; --i) request.mutable_token_ids()->add_ids(3 + Below(1000));
    request.mutable_sampling()->set_max_tokens(1 + Below(kMaxTokens));
    if (stalls) {  // enough to fill what lies between the daemon and a client that does not read
      request.mutable_sampling()->set_max_tokens(400);
      request.mutable_sampling()->set_ignore_eos(true);
      request.mutable_sampling()->set_logprobs(20);
    }
    return request;
  }

  void Turn() {
    const bool stalls = session_.empty() && Chance(kStalled);
    bool cancels = !stalls && Chance(kCancelled);
    const v1::GenerateRequest request = MakeRequest(stalls);
    int reads_left = cancels ? Below(30) : -1;
    grpc::ClientContext context;
    ++counts_->calls;
    const auto reader = client_->inference->Generate(&context, request);
    v1::GenerateResponse message;
    Generated result;
    if (stalls)
      absl::SleepFor(std::min(absl::Seconds(3), std::max(absl::ZeroDuration(), end_ - absl::Now())));
    if (reads_left == 0) context.TryCancel();
    while (reader->Read(&message)) {
      result.Add(message);
      if (--reads_left == 0) context.TryCancel();
      if (!cancels && absl::Now() > end_) {  // all that still run, at once
        cancels = true;
        context.TryCancel();
      }
    }
    result.status = reader->Finish();
    Judge(result, stalls, cancels);
    cancelled_before_ = cancels;
    if (request.keep_session()) session_ = result.session_id;
    if (session_.empty()) return;
    session_tokens_ += request.token_ids().ids_size() + request.sampling().max_tokens();
    if (Chance(0.3) || session_tokens_ > kMaxSession) Forget();
  }

  void Judge(const Generated& result, bool stalls, bool cancels) {
    const bool ok = result.status.ok();
    if (ok && result.finished == 1) {
      ++counts_->finished;
    } else if (cancels && result.finished <= 1 && result.status.error_code() == grpc::StatusCode::CANCELLED) {
      ++counts_->cancelled;
    } else if (stalls && (Aborted(result, "SLOW_READER") || TornDown(result))) {
      ++counts_->slow;
    } else if (cancelled_before_ && Aborted(result, "SESSION_BUSY")) {
      ++counts_->busy;  // with the turn that was cancelled: the client does not wait for its end
    } else {
      ++counts_->wrong;
      ADD_FAILURE() << result.status.error_code() << " " << result.status.error_message() << ", finished "
                    << result.finished << " times";
    }
  }

  static bool Aborted(const Generated& result, const std::string& reason) {
    return result.finished == 0 && result.status.error_code() == grpc::StatusCode::ABORTED &&
           Details(result.status).info.reason() == reason;
  }

  // A stream whose end was not read in time either: its details are lost.
  static bool TornDown(const Generated& result) {
    return result.finished == 0 && result.status.error_code() == grpc::StatusCode::ABORTED &&
           result.status.error_details().empty();
  }

  void Forget() {
    grpc::ClientContext context;
    v1::DeleteSessionRequest request;
    v1::DeleteSessionResponse response;
    request.set_session_id(session_);
    const grpc::Status status = client_->sessions->DeleteSession(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    session_.clear();
    session_tokens_ = 0;
  }

  Client* const client_;
  std::mt19937 random_;
  const absl::Time end_;
  Counts* const counts_;
  std::string session_;     // kept, if any
  int session_tokens_ = 0;  // it has at most so many: a turn that was cancelled does not tell
  bool cancelled_before_ = false;
};

v1::ServerStatus Status(Client* client) {
  grpc::ClientContext context;
  v1::ServerStatus status;
  const grpc::Status answer = client->admin->GetStatus(&context, v1::GetStatusRequest(), &status);
  EXPECT_TRUE(answer.ok()) << answer.error_message();
  return status;
}

// Sessions whose client cancelled before it was told their ID.
void ForgetAll(Client* client) {
  v1::ListSessionsResponse page;
  do {
    grpc::ClientContext list_context;
    ASSERT_TRUE(client->sessions->ListSessions(&list_context, v1::ListSessionsRequest(), &page).ok());
    for (const v1::Session& session : page.sessions()) {
      grpc::ClientContext context;
      v1::DeleteSessionRequest request;
      v1::DeleteSessionResponse response;
      request.set_session_id(session.session_id());
      EXPECT_TRUE(client->sessions->DeleteSession(&context, request, &response).ok());
    }
  } while (page.sessions_size() > 0);
}

TEST(SoakTest, EveryRequestHasOneEndAndNothingIsLost) {
  const char* seconds = std::getenv("SESSA_SOAK_SECONDS");
  const absl::Duration duration = absl::Seconds(seconds == nullptr ? 8 : std::atoi(seconds));
  SessadProcess sessad({"--state_memory=256M", "--slow_reader_timeout=1s", "--max_batch_tokens=512"});
  ASSERT_TRUE(sessad.listening()) << sessad.log();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < kConnections; ++i) {
    clients.push_back(std::make_unique<Client>(sessad.grpc_address()));
  }

  const int64_t resident_idle = sessad.resident_bytes();
  const absl::Time start = absl::Now();
  Counts counts;
  std::vector<std::thread> users;
  for (int i = 0; i < kStreams; ++i) {
    users.emplace_back([&, i] { User(clients[i % kConnections].get(), i, start + duration, &counts).Run(); });
  }
  absl::SleepFor(duration / 3);
  const int64_t resident_early = sessad.resident_bytes();
  absl::SleepFor(start + duration - absl::Now());
  const int64_t resident_late = sessad.resident_bytes();
  for (std::thread& user : users) user.join();

  std::printf(
      "%ld calls: %ld finished, %ld cancelled, %ld slow readers, %ld busy; RSS %ld MiB at a third, %ld MiB "
      "at the "
      "end\n",
      counts.calls.load(), counts.finished.load(), counts.cancelled.load(), counts.slow.load(),
      counts.busy.load(), resident_early >> 20, resident_late >> 20);
  EXPECT_EQ(counts.finished + counts.cancelled + counts.slow + counts.busy + counts.wrong, counts.calls);
  EXPECT_GT(counts.finished, 0);
  EXPECT_GT(counts.cancelled, 0);
  if (kMeasureMemory) {
    // Idle, all state pages, and what 200 streams with their buffers may take.
    EXPECT_LT(resident_late, resident_idle + (int64_t{256} << 20) + kStreams * (int64_t{256} << 10));
    // In a long run every state page was touched early on: from there memory is flat.
    if (duration >= absl::Minutes(1)) {
      EXPECT_LT(resident_late - resident_early, 16 << 20);
    }
  }

  Client* client = clients[0].get();
  ASSERT_TRUE(
      Eventually([&] { return Status(client).queue().running() + Status(client).queue().waiting() == 0; }));
  ForgetAll(client);
  EXPECT_TRUE(Eventually(
      [&] { return Status(client).state().pages_free() == Status(client).state().pages_total(); }));
  const v1::ServerStatus status = Status(client);
  EXPECT_EQ(status.state().open_pages_free(), status.state().open_pages_total());
  EXPECT_EQ(status.state().orphan_pages(), 0);
  EXPECT_EQ(status.state().sessions(), 0);
  EXPECT_TRUE(status.serving()) << status.not_serving_reason();
  sessad.Signal(SIGTERM);
  EXPECT_EQ(sessad.Wait(), 0) << sessad.log();
}

}  // namespace
}  // namespace sessa
