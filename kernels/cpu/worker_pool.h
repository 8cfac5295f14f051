// The threads that share one phase of the CPU backend at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace sessa::cpu {

// Runs the items of a job on the calling thread and threads() - 1 workers. Each thread begins with its own
// share, a contiguous range of the items, then helps the others: a thread that works on the same items in job
// after job finds their data in its own cache, and no thread waits while there is an item to take. Workers
// spin for some tens of microseconds after their last item, then sleep until the next job. Run is called by
// one thread; it never waits for a worker that holds no item, so a worker that the kernel has descheduled
// delays nothing.
class WorkerPool {
 public:
  // `threads` in all, the caller's included; >= 1. Throws std::system_error that says how many there are when
  // the system has no more threads; those already started have ended then.
  explicit WorkerPool(int threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  // Workers that are asleep or about to be; the next job wakes them. For tests: it is old once it is told.
  int sleeping() const { return static_cast<int>(parked_.load()); }
  double WorkerCpuSeconds() const;  // CPU time of the workers so far, spinning included

  // Calls body(item, thread) once for every item in [0, items), thread in [0, threads()), in no particular
  // order; returns when all have returned. What they wrote is then visible to the caller and to every later
  // job.
  template <class Body>
  void Run(int items, const Body& body) {
    if (items <= 0) return;
    RunJob(
        items,
        [](const void* context, int item, int thread) { (*static_cast<const Body*>(context))(item, thread); },
        &body);
  }

 private:
  using Function = void (*)(const void* context, int item, int thread);
  // A thread's share: the number of the job (high half) and how many items of the share nobody has taken yet
  // (low half).
  struct alignas(64) Share {
    std::atomic<uint64_t> ticket{0};
  };
  static constexpr uint64_t kJob = uint64_t{1} << 32;

  void RunJob(int items, Function function, const void* context);
  // An item of the thread's own share or, when that is empty, of the next thread's that is not.
  bool RunOneItem(int thread);
  bool RunOneItemOf(int share, int thread);
  uint64_t CurrentJob() const { return shares_[0].ticket.load() / kJob; }
  // Where a share begins; it ends where the next one begins.
  uint32_t ShareBegin(uint64_t items, int share) const { return items * share / shares_.size(); }
  void WorkerLoop(int thread);
  void StopWorkers();
  bool SpinForWork(uint64_t seen_job) const;

  // The job: written by Run when no item is left to take. A worker reads it between looking at the ticket and
  // taking an item; that it can take the item proves that the job did not change meanwhile.
  std::atomic<Function> function_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<uint32_t> items_{0};
  std::vector<Share> shares_;  // by thread; the first one's ticket is written last
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<uint32_t> parked_{0};
  std::atomic<uint32_t> wake_{0};  // what parked workers wait on
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

}  // namespace sessa::cpu
