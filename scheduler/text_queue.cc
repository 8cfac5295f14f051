#include "scheduler/text_queue.h"

#include <algorithm>
#include <utility>

namespace sessa {

TextQueue::TextQueue(Executor* pool, int32_t threads) : pool_(pool), max_long_(std::max(1, threads - 1)) {}

void TextQueue::Post(TextUse use, int64_t bytes, Task work) {
  {
    MutexLock lock(&mutex_);
    (use == TextUse::kTurn ? turns_ : calls_).push_back({std::move(work), bytes > kLongBytes});
  }
  pool_->Post([this] { RunNext(); });
}

bool TextQueue::TakeNext(Job* job) {
  const bool long_too = long_running_ < max_long_;
  const auto may_run = [long_too](const Job& candidate) { return long_too || !candidate.is_long; };
  for (std::deque<Job>* jobs : {&turns_, &calls_}) {
    const auto next = std::find_if(jobs->begin(), jobs->end(), may_run);
    if (next == jobs->end()) continue;
    *job = std::move(*next);
    jobs->erase(next);
    long_running_ += job->is_long;
    return true;
  }
  return false;
}

void TextQueue::RunNext() {
  Job job;
  {
    MutexLock lock(&mutex_);
    if (!TakeNext(&job)) {
      ++passed_over_;  // the next long one that ends makes up for it
      return;
    }
  }
  job.work();
  if (!job.is_long) return;
  {
    MutexLock lock(&mutex_);
    --long_running_;
    if (passed_over_ == 0) return;
    --passed_over_;
  }
  pool_->Post([this] { RunNext(); });
}

}  // namespace sessa
