// Tokenize and Detokenize: clients' work on the tokenizer pool. Bounded, answers that nobody reads included,
// and left out when its client is gone.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <unordered_set>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/base/mutex.h"
#include "scheduler/core.h"
#include "server/text_budget.h"

namespace sessa {

class TokenCall;

// Thread-safe. Outlives its calls.
class TokenCalls {
 public:
  // The core outlives it. A client that does not take its answer for so long is ended.
  TokenCalls(Core* core, absl::Duration slow_reader_timeout);
  ~TokenCalls();

  // Runs on the tokenizer pool; the result fills the call's response, there too, if the call is still open.
  using Fill = absl::AnyInvocable<void()>;
  using Work = absl::AnyInvocable<absl::StatusOr<Fill>()>;
  // A call about so many bytes. Its reactor ends at once with QUEUE_FULL when too many are out.
  grpc::ServerUnaryReactor* Start(grpc::CallbackServerContext* context, int64_t bytes, Work work);

  // Called every fraction of a second.
  void CheckReaders(absl::Time now);

 private:
  friend class TokenCall;
  void Remove(const std::shared_ptr<TokenCall>& call);

  Core* const core_;
  const absl::Duration slow_reader_timeout_;
  TextBudget budget_;
  Mutex mutex_;
  std::unordered_set<std::shared_ptr<TokenCall>> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sessa
