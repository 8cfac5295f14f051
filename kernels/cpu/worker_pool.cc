#include "kernels/cpu/worker_pool.h"

#include <pthread.h>
#include <time.h>

#include <chrono>
#include <string>
#include <system_error>

namespace sessa::cpu {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kSpinsBeforeYield = 500;  // some 10 us

inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// What ps and top show; at most 15 characters.
void SetThreadName([[maybe_unused]] const std::string& name) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
#endif
}

}  // namespace

WorkerPool::WorkerPool(int threads) : shares_(threads) {
  workers_.reserve(threads - 1);
  try {
    for (int thread = 1; thread < threads; ++thread)
      workers_.emplace_back([this, thread] { WorkerLoop(thread); });
  } catch (const std::system_error& error) {
    StopWorkers();
    throw std::system_error(error.code(), "only " + std::to_string(this->threads()) + " of " +
                                              std::to_string(threads) + " threads could be had");
  }
}

WorkerPool::~WorkerPool() { StopWorkers(); }

void WorkerPool::StopWorkers() {
  stopping_.store(true);
  wake_.fetch_add(1);
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

double WorkerPool::WorkerCpuSeconds() const {
  double seconds = 0;
#if defined(__linux__)
  for (const std::thread& worker : workers_) {
    clockid_t clock;
    timespec time;
    // native_handle is not const, though it changes nothing
    const pthread_t thread = const_cast<std::thread&>(worker).native_handle();
    if (pthread_getcpuclockid(thread, &clock) != 0 || clock_gettime(clock, &time) != 0) continue;
    seconds += static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }
#endif
  return seconds;
}

void WorkerPool::RunJob(int items, Function function, const void* context) {
  if (workers_.empty() || items == 1) {
    for (int item = 0; item < items; ++item) function(context, item, 0);
    return;
  }
  function_.store(function, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  items_.store(items, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  const uint64_t job = CurrentJob() + 1;
  for (int share = static_cast<int>(shares_.size()) - 1; share >= 0; --share) {
    shares_[share].ticket.store(job * kJob + ShareBegin(items, share + 1) - ShareBegin(items, share));
  }
  // Sequentially consistent with a worker's "parked, then look at the ticket again": one of the two sees the
  // other.
  if (parked_.load() > 0) {
    wake_.fetch_add(1);
    wake_.notify_all();
  }
  while (RunOneItem(0)) {
  }
  for (int spins = 0; done_.load(std::memory_order_acquire) != static_cast<uint32_t>(items); ++spins) {
    if (spins < kSpinsBeforeYield) {
      Pause();
    } else {
      std::this_thread::yield();  // the worker may be waiting for this very core
    }
  }
}

bool WorkerPool::RunOneItem(int thread) {
  const int shares = static_cast<int>(shares_.size());
  for (int i = 0; i < shares; ++i) {
    const int share = thread + i < shares ? thread + i : thread + i - shares;
    if (RunOneItemOf(share, thread)) return true;
  }
  return false;
}

bool WorkerPool::RunOneItemOf(int share, int thread) {
  std::atomic<uint64_t>& shared_ticket = shares_[share].ticket;
  uint64_t ticket = shared_ticket.load(std::memory_order_acquire);
  for (;;) {
    const uint32_t left = static_cast<uint32_t>(ticket);
    if (left == 0) return false;
    const Function function = function_.load(std::memory_order_relaxed);
    const void* context = context_.load(std::memory_order_relaxed);
    const uint32_t item = ShareBegin(items_.load(std::memory_order_relaxed), share + 1) - left;
    if (!shared_ticket.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                             std::memory_order_acquire)) {
      continue;
    }
    function(context, static_cast<int>(item), thread);
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }
}

bool WorkerPool::SpinForWork(uint64_t seen_job) const {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (CurrentJob() != seen_job) return true;
      Pause();
    }
    std::this_thread::yield();  // to a thread that has work, where there are more threads than cores
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

void WorkerPool::WorkerLoop(int thread) {
  SetThreadName("sessa-cpu-" + std::to_string(thread));
  while (!stopping_.load(std::memory_order_relaxed)) {
    const uint64_t job = CurrentJob();
    while (RunOneItem(thread)) {
    }
    if (SpinForWork(job)) continue;
    const uint32_t wake = wake_.load();
    parked_.fetch_add(1);
    if (CurrentJob() == job && !stopping_.load()) wake_.wait(wake);
    parked_.fetch_sub(1);
  }
}

}  // namespace sessa::cpu
