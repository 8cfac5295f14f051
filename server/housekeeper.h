// What has to be done now and then: one thread that wakes a few times a second.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "runtime/base/mutex.h"

namespace sessa {

// Calls functions at a fixed interval on a thread of its own, from Start until Stop.
class Housekeeper {
 public:
  explicit Housekeeper(absl::Duration interval) : interval_(interval) {}
  ~Housekeeper() { Stop(); }

  // Before Start. Must not block for long: all share the thread.
  void Add(std::function<void(absl::Time now)> task) { tasks_.push_back(std::move(task)); }
  void Start();
  void Stop();  // waits for a running task; may be called twice

 private:
  void Run();

  const absl::Duration interval_;
  std::vector<std::function<void(absl::Time)>> tasks_;  // constant after Start
  std::thread thread_;
  Mutex mutex_;
  CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

// Gives freed memory back to the system once a flood of calls or connections is over: glibc keeps it
// otherwise. Looks at what is free in the heap, since much of a flood is never a call of ours. One thread.
class MemoryTrimmer {
 public:
  // glibc's own, or a test's.
  struct Heap {
    std::function<int64_t()> free_bytes;  // given back or not
    std::function<void()> trim;
  };
  MemoryTrimmer();
  explicit MemoryTrimmer(Heap heap) : heap_(std::move(heap)) {}

  // Called every fraction of a second.
  void Tick(absl::Time now);

 private:
  const Heap heap_;
  absl::Time looked_ = absl::InfinitePast(), trimmed_ = absl::InfinitePast();
  int64_t free_ = 0;   // when it looked last
  int64_t least_ = 0;  // since the last trim: what is free beyond that was in use in between
};

}  // namespace sessa
