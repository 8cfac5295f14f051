#include "kernels/host_rates.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace sessa {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t Sum(const uint64_t* begin, const uint64_t* end) {
  uint64_t lanes[8] = {};
  for (; begin + 8 <= end; begin += 8) {
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += begin[lane];
  }
  for (int lane = 1; lane < 8; ++lane) lanes[0] += lanes[lane];
  return lanes[0];
}

}  // namespace

double MeasureHostReadRate(int32_t threads) {
  constexpr int64_t kWords = int64_t{1} << 24;  // 128 MB a thread
  constexpr int kRounds = 5;
  std::vector<std::vector<uint64_t>> memory(threads);
  std::vector<std::thread> workers;
  std::atomic<int32_t> waiting{0};
  std::atomic<uint64_t> sink{0};  // keeps the sums from being optimised away
  std::vector<double> seconds(threads);
  for (int32_t t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      memory[t].assign(kWords, t);  // touched by the thread that reads it
      ++waiting;
      while (waiting < threads) std::this_thread::yield();
      double best = 1e30;
      for (int round = 0; round < kRounds; ++round) {
        const Clock::time_point start = Clock::now();
        sink += Sum(memory[t].data(), memory[t].data() + kWords);
        best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
      }
      seconds[t] = best;
    });
  }
  for (std::thread& worker : workers) worker.join();
  double rate = 0;
  for (double s : seconds) rate += kWords * sizeof(uint64_t) / s;
  return rate;
}

}  // namespace sessa
