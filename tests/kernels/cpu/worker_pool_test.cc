#include "kernels/cpu/worker_pool.h"

#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/scarce_threads.h"

namespace sessa::cpu {
namespace {

class WorkerPoolTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, WorkerPoolTest, testing::Values(1, 2, 3, 8));

TEST_P(WorkerPoolTest, RunsEveryItemOnceAndShowsWhatItWrote) {
  WorkerPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (int round = 0; round < 300; ++round) {
    for (int items : {0, 1, 2, 7, 100}) {
      std::vector<int> runs(items, 0);  // plain ints: a race or a lost item would show
      pool.Run(items, [&](int item, int thread) {
        runs[item] += 1;
        EXPECT_LT(thread, pool.threads());
      });
      EXPECT_EQ(runs, std::vector<int>(items, 1));
    }
  }
}

// A worker that looked at a job as it ended must not take the next one for it.
TEST_P(WorkerPoolTest, ShortJobsOfChangingSizesKeepTheirItems) {
  WorkerPool pool(GetParam());
  for (int job = 0; job < 20'000; ++job) {
    const int items = 2 + job % 5;
    std::atomic<int> sum{0};
    pool.Run(items, [&](int item, int) { sum.fetch_add(item + 1, std::memory_order_relaxed); });
    ASSERT_EQ(sum.load(), items * (items + 1) / 2);
  }
}

TEST_P(WorkerPoolTest, JobsSeeWhatEarlierJobsWrote) {
  WorkerPool pool(GetParam());
  std::vector<int64_t> numbers(257, 0);
  for (int round = 0; round < 500; ++round) {
    // Item i reads its neighbour of the round before, which any thread may have written.
    std::vector<int64_t> next(numbers.size());
    pool.Run(static_cast<int>(numbers.size()),
             [&](int item, int) { next[item] = numbers[(item + 1) % numbers.size()] + 1; });
    numbers.swap(next);
  }
  EXPECT_EQ(numbers, std::vector<int64_t>(numbers.size(), 500));
}

// Runs an item for every thread; each waits until all have one, so that it returns only if all take part.
void RunTogether(WorkerPool& pool) {
  std::vector<std::atomic<int>> runs(pool.threads());
  std::atomic<int> arrived{0};
  pool.Run(pool.threads(), [&](int, int thread) {
    ++runs[thread];
    ++arrived;
    while (arrived < pool.threads()) std::this_thread::yield();
  });
  for (const std::atomic<int>& count : runs) EXPECT_EQ(count.load(), 1);
}

TEST_P(WorkerPoolTest, SharesTheWork) {
  WorkerPool pool(GetParam());
  RunTogether(pool);
}

TEST_P(WorkerPoolTest, WakesWorkersThatSleep) {
  WorkerPool pool(GetParam());
  for (int round = 0; round < 5; ++round) {
    while (pool.sleeping() < pool.threads() - 1) std::this_thread::yield();
    RunTogether(pool);
  }
}

TEST(WorkerPool, CountsTheCpuTimeOfItsWorkersOnly) {
  EXPECT_EQ(WorkerPool(1).WorkerCpuSeconds(), 0);
  WorkerPool pool(2);
  const double before = pool.WorkerCpuSeconds();
  std::atomic<int> finished{0};
  std::atomic<bool> worker_took_one{false};
  pool.Run(2, [&](int, int thread) {
    if (thread == 1) worker_took_one.store(true);
    ++finished;
    while (!worker_took_one.load() || finished.load() < 2) std::this_thread::yield();
  });
  EXPECT_GT(pool.WorkerCpuSeconds(), before);
}

TEST(WorkerPool, SaysHowManyThreadsThereWere) {
  for (const int more : {0, 3}) {
    const ScarceThreads scarce(more);
    try {
      WorkerPool pool(8);
      FAIL() << "8 threads of " << more + 1;
    } catch (const std::system_error& error) {
      EXPECT_EQ(error.code(), std::errc::resource_unavailable_try_again);
      EXPECT_THAT(error.what(), testing::HasSubstr("only " + std::to_string(more + 1) + " of 8 threads"));
    }
  }
  WorkerPool pool(8);  // there are threads again
  RunTogether(pool);
}

}  // namespace
}  // namespace sessa::cpu
