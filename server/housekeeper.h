// What has to be done now and then: one thread that wakes a few times a second.
#pragma once

#include <cstddef>
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

// Gives freed memory back to the system once a flood of calls is over: glibc keeps it otherwise. One thread.
class MemoryTrimmer {
 public:
  // `streams`: calls open now.
  void Tick(absl::Time now, size_t streams);

 private:
  size_t peak_ = 0;                                 // of streams since the last trim
  absl::Time idle_since_ = absl::InfiniteFuture();  // when the flood was last seen
};

}  // namespace sessa
