// How much text may be with the tokenizer pool at once: its queue has no bound of its own.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "runtime/base/mutex.h"

namespace sessa {

// Thread-safe. Outlives its shares.
class TextBudget {
 public:
  // A part of the budget; given back when it dies.
  class Share {
   public:
    Share(TextBudget* budget, int64_t bytes) : budget_(budget), bytes_(bytes) {}
    ~Share() { budget_->GiveBack(bytes_); }
    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;

   private:
    TextBudget* const budget_;
    const int64_t bytes_;
  };

  TextBudget(int32_t calls, int64_t bytes) : calls_(calls), bytes_(bytes) {}

  // For one call with a text of so many bytes. RESOURCE_EXHAUSTED (QUEUE_FULL) when too much is out.
  absl::StatusOr<std::unique_ptr<Share>> Take(int64_t bytes);

 private:
  void GiveBack(int64_t bytes);

  Mutex mutex_;
  int32_t calls_ ABSL_GUARDED_BY(mutex_);  // left
  int64_t bytes_ ABSL_GUARDED_BY(mutex_);  // left
};

}  // namespace sessa
