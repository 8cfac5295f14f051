#include "server/housekeeper.h"

#include <malloc.h>
#include <pthread.h>

#include <algorithm>

#include "absl/time/clock.h"

namespace sessa {
namespace {

constexpr size_t kFlood = 64;  // calls at once after which trimming pays
constexpr absl::Duration kQuiet = absl::Seconds(3);

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

void MemoryTrimmer::Tick(absl::Time now, size_t streams) {
  peak_ = std::max(peak_, streams);
  // Over when at most a tenth of it is left, for a while.
  if (peak_ < kFlood || streams > peak_ / 10) {
    idle_since_ = now;
    return;
  }
  if (now - idle_since_ < kQuiet) return;
  malloc_trim(0);
  peak_ = streams;
}

}  // namespace sessa
