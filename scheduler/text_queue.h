// What waits for the threads that turn text into tokens and back.
#pragma once

#include <cstdint>
#include <deque>

#include "runtime/base/executor.h"
#include "runtime/base/mutex.h"

namespace sessa {

// Who waits for it: a turn goes before a call that only asks for tokens or text.
enum class TextUse { kTurn, kCall };

// Hands work to a pool of threads, a turn's first, else in order of arrival. What takes long never has the
// last thread (of several), so a short prompt waits for short work only. Thread-safe. Unbounded: what may
// enter is bounded by whoever posts.
class TextQueue {
 public:
  static constexpr int64_t kLongBytes = 32 << 10;  // more than that is long: a tenth of a second or so

  // The pool outlives the queue.
  TextQueue(Executor* pool, int32_t threads);

  // `bytes`: of the text or of the token ids.
  void Post(TextUse use, int64_t bytes, Task work);

 private:
  struct Job {
    Task work;
    bool is_long = false;
  };
  void RunNext();
  bool TakeNext(Job* job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Executor* const pool_;
  const int32_t max_long_;  // at once

  Mutex mutex_;
  // The pool has been given one RunNext for each job, less those that found only long ones too many.
  std::deque<Job> turns_ ABSL_GUARDED_BY(mutex_), calls_ ABSL_GUARDED_BY(mutex_);
  int32_t long_running_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t passed_over_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sessa
