#include "server/text_budget.h"

#include "runtime/base/errors.h"

namespace sessa {

absl::StatusOr<std::unique_ptr<TextBudget::Share>> TextBudget::Take(int64_t bytes) {
  MutexLock lock(&mutex_);
  if (calls_ < 1 || bytes_ < bytes) {
    return Shed("QUEUE_FULL", "too much text waits to be tokenised", absl::Seconds(1));
  }
  --calls_;
  bytes_ -= bytes;
  return std::make_unique<Share>(this, bytes);
}

void TextBudget::GiveBack(int64_t bytes) {
  MutexLock lock(&mutex_);
  ++calls_;
  bytes_ += bytes;
}

}  // namespace sessa
