// The core with its real threads: many clients at once, cancels at any moment, sessions that come and go.
// Runs under ThreadSanitizer, too.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "runtime/base/errors.h"
#include "runtime/base/thread_pool.h"
#include "tests/scarce_threads.h"
#include "tests/scheduler/recording_sink.h"
#include "tests/scheduler/toy_core.h"

namespace sessa::toy {
namespace {

absl::StatusOr<std::unique_ptr<Core>> CreateCore(int32_t steps_in_flight, CoreHooks hooks,
                                                 std::shared_ptr<Control> control) {
  ToyOps::Options ops_options;
  ops_options.compact = true;
  ops_options.steps_in_flight = steps_in_flight;
  ops_options.max_rows = 64;
  CoreOptions options;
  options.shape = Shape();
  options.bos_token = kBos;
  options.eos_token = kEos;
  options.max_context = 512;
  options.max_batch_tokens = ops_options.max_rows;
  options.max_batch_sessions = ops_options.max_segments;
  options.max_waiting = 64;
  options.state_pages = 24;
  options.open_pages = 12;
  options.tokenizer_threads = 2;
  auto ops = std::make_unique<ToyOps>(ops_options, std::move(control));
  EXPECT_TRUE(ops->AllocateState(options.state_pages, options.open_pages).ok());
  return Core::Create(options, std::move(ops), std::make_shared<ToyTokenizer>(), std::move(hooks),
                      Clock::Real());
}

std::unique_ptr<Core> ThreadedCore(int32_t steps_in_flight, CoreHooks hooks,
                                   std::shared_ptr<Control> control) {
  return CreateCore(steps_in_flight, std::move(hooks), std::move(control)).value();
}

// One client: turns of its own session, one after the other; some are cancelled, some paused for a while.
void RunClient(Core* core, int32_t client, int32_t turns) {
  std::mt19937 random(client);
  std::string session;
  for (int32_t i = 0; i < turns; ++i) {
    const auto sink = std::make_shared<RecordingSink>();
    const std::string id = absl::StrCat("client", client, "-", i);
    auto request = Request(id, {}, 1 + random() % 60, sink);
    request->prompt = std::string(1 + random() % 40, static_cast<char>('a' + random() % 26));
    request->session_id = session;
    request->keep_session = session.empty();
    if (random() % 3 == 0) request->stop = {std::string(1, static_cast<char>('a' + random() % 26))};
    if (!core->Submit(std::move(request)).ok()) continue;  // shed
    const uint32_t what = random() % 8;
    if (what == 0) core->Cancel({}, id);
    if (what == 1) core->SetPaused({}, id, true);
    if (what == 1) std::this_thread::yield();
    if (what == 1) core->SetPaused({}, id, false);
    if (what == 2) core->GetSession({}, session, [](absl::StatusOr<SessionInfo>) {});
    if (what == 3) (void)core->Status();
    sink->Wait();
    const TurnRecord record = sink->record();
    EXPECT_TRUE(record.broken.empty()) << record.broken.front();
    if (record.error) {
      EXPECT_EQ(record.error->code(), absl::StatusCode::kInvalidArgument)
          << *record.error;  // the context is full
      session.clear();
    } else if (record.started) {
      session = record.started->session_id;
    }
  }
}

class CoreThreadsTest : public testing::TestWithParam<int32_t> {};
INSTANTIATE_TEST_SUITE_P(InFlight, CoreThreadsTest, testing::Values(1, 2));

TEST_P(CoreThreadsTest, ManyClientsEndAndLeaveNoPageBehind) {
  std::atomic<int64_t> steps{0}, turns{0};
  CoreHooks hooks;
  hooks.on_step = [&steps](const StepReport&) { ++steps; };
  hooks.on_turn = [&turns](const TurnReport&) { ++turns; };
  const auto control = std::make_shared<Control>();
  auto core = ThreadedCore(GetParam(), hooks, control);
  std::vector<std::thread> clients;
  for (int32_t client = 0; client < 8; ++client) clients.emplace_back(RunClient, core.get(), client, 30);
  for (std::thread& client : clients) client.join();
  std::atomic<bool> drained{false};
  core->Drain(absl::InfiniteFuture(), [&drained] { drained = true; });
  while (!drained) std::this_thread::yield();
  EXPECT_EQ(core->Status().running, 0);
  EXPECT_EQ(core->Status().orphan_pages, 0);
  EXPECT_GT(steps, 0);
  EXPECT_GT(turns, 0);
  core.reset();
  EXPECT_TRUE(control->errors.empty()) << control->errors.front();
}

TEST_P(CoreThreadsTest, ShutdownEndsWhatRuns) {
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  {
    auto core = ThreadedCore(GetParam(), {}, std::make_shared<Control>());
    for (int32_t i = 0; i < 20; ++i) {
      auto sink = std::make_shared<RecordingSink>();
      auto request = Request(absl::StrCat("r", i), {2 + i}, 400, sink);
      request->ignore_eos = true;
      if (i % 2 == 0) request->prompt = std::string("abc");
      if (core->Submit(std::move(request)).ok()) sinks.push_back(std::move(sink));
    }
  }
  for (const auto& sink : sinks) EXPECT_EQ(sink->record().ends, 1);
}

TEST(ThreadPoolTest, RunsTasksInOrderOnOneThread) {
  std::vector<int32_t> order;
  std::atomic<bool> done{false};
  ThreadPool pool(1);
  for (int32_t i = 0; i < 100; ++i) pool.Post([&order, i] { order.push_back(i); });
  pool.Post([&done] { done = true; });
  while (!done) std::this_thread::yield();
  for (int32_t i = 0; i < 100; ++i) EXPECT_EQ(order[i], i);
}

TEST(CoreCreateTest, ThreadsThatCannotBeStartedAreAnError) {
  const auto control = std::make_shared<Control>();
  for (int32_t threads = 0; threads < 4; ++threads) {  // two encode, one is the engine's, one the emitter's
    const ScarceThreads scarce(threads);
    EXPECT_EQ(CreateCore(1, {}, control).status().code(), absl::StatusCode::kResourceExhausted) << threads;
  }
  EXPECT_TRUE(CreateCore(1, {}, control).ok());
}

}  // namespace
}  // namespace sessa::toy
