// Threads that run tasks in the order in which they were posted.
#pragma once

#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

#include "runtime/base/executor.h"
#include "runtime/base/mutex.h"

namespace sessa {

// Thread-safe.
class ThreadPool : public Executor {
 public:
  // Throws std::system_error when the system has no more threads; those already started have ended then.
  explicit ThreadPool(int32_t threads);
  ~ThreadPool() override;  // waits for the tasks that run; those still queued are dropped

  void Post(Task task) override;

 private:
  void Work();
  void Stop();

  Mutex mutex_;
  CondVar changed_;
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;  // constant after construction
};

}  // namespace sessa
