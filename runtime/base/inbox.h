// A queue of messages from any thread to one consumer.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "runtime/base/mutex.h"

namespace sessa {

// Thread-safe; one consumer. Unbounded: what may enter is bounded by whoever posts.
template <typename T>
class Inbox {
 public:
  void Push(T message) {
    MutexLock lock(&mutex_);
    messages_.push_back(std::move(message));
    if (consumer_waits_) arrived_.Signal();
  }

  // Takes everything that is there, oldest first, into the emptied `messages`. False: there was nothing.
  bool TakeAll(std::vector<T>* messages) {
    messages->clear();
    MutexLock lock(&mutex_);
    messages_.swap(*messages);
    return !messages->empty();
  }

  // Waits until there is a message, Wake is called or the timeout passes. May return early.
  void Wait(absl::Duration timeout) {
    MutexLock lock(&mutex_);
    consumer_waits_ = true;
    if (messages_.empty() && !woken_) {
      if (timeout > absl::ZeroDuration()) arrived_.WaitFor(&mutex_, std::min(timeout, absl::Hours(1)));
    }
    woken_ = false;
    consumer_waits_ = false;
  }

  // Ends the consumer's current or next Wait.
  void Wake() {
    MutexLock lock(&mutex_);
    woken_ = true;
    arrived_.Signal();
  }

 private:
  Mutex mutex_;
  CondVar arrived_;
  std::vector<T> messages_ ABSL_GUARDED_BY(mutex_);
  bool consumer_waits_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sessa
