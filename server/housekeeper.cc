#include "server/housekeeper.h"

#include <malloc.h>
#include <pthread.h>

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace sessa {
namespace {

constexpr int64_t kFlood = 64 << 20;  // bytes that became free, after which trimming pays
constexpr int64_t kNoise = 1 << 20;
constexpr absl::Duration kInterval = absl::Seconds(5);  // looking visits every free chunk
constexpr absl::Duration kPause = absl::Seconds(30);    // between trims, which visit every page of them

}  // namespace

void Housekeeper::Start() { thread_ = std::thread(&Housekeeper::Run, this); }

void Housekeeper::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    wake_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
}

void Housekeeper::Run() {
  pthread_setname_np(pthread_self(), "housekeeper");
  while (true) {
    for (const auto& task : tasks_) task(absl::Now());
    MutexLock lock(&mutex_);
    if (!stopping_) wake_.WaitFor(&mutex_, interval_);
    if (stopping_) return;
  }
}

MemoryTrimmer::MemoryTrimmer()
    : MemoryTrimmer({[] { return static_cast<int64_t>(mallinfo2().fordblks); }, [] { malloc_trim(0); }}) {}

void MemoryTrimmer::Tick(absl::Time now) {
  if (now - looked_ < kInterval) return;
  looked_ = now;
  const int64_t before = std::exchange(free_, heap_.free_bytes());
  least_ = std::min(least_, free_);
  const bool quiet = free_ <= before + kNoise;  // the flood's memory has become free
  if (!quiet || free_ - least_ < kFlood || now - trimmed_ < kPause) return;
  heap_.trim();
  trimmed_ = now;
  least_ = free_ = heap_.free_bytes();
}

}  // namespace sessa
