// The executor seam: production runs tasks on a thread pool, the simulator when it pleases.
#pragma once

#include "absl/functional/any_invocable.h"

namespace sessa {

using Task = absl::AnyInvocable<void()>;

// Thread-safe.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Post(Task task) = 0;
};

}  // namespace sessa
