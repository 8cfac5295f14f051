#include "server/token_calls.h"

#include <grpc/grpc.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "runtime/base/errors.h"
#include "server/call.h"
#include "server/error_details.h"

namespace sessa {
namespace {

constexpr int32_t kMostCalls = 256;
constexpr int64_t kMostBytes = 4 << 20;  // of text or token ids; the pieces of an answer take some twelvefold

absl::Status ClientIsGone() {
  return MakeError(absl::StatusCode::kCancelled, "the client cancelled the call", {.reason = "CANCELLED"});
}

}  // namespace

// Its share of the budget is given back when both gRPC and the tokenizer pool have let go of it.
class TokenCall final : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<TokenCall> {
 public:
  TokenCall(TokenCalls* calls, grpc::CallbackServerContext* context, std::unique_ptr<TextBudget::Share> share)
      : calls_(calls), context_(context), share_(std::move(share)) {}

  // On the tokenizer pool.
  void Run(TokenCalls::Work work) {
    {
      MutexLock lock(&mutex_);
      if (answered_) return;
    }
    absl::StatusOr<TokenCalls::Fill> fill = work();
    if (!Claim()) return;
    if (fill.ok()) (*fill)();
    End(fill.status());
  }

  void CheckReader(absl::Time now) {
    MutexLock lock(&mutex_);
    if (done_ || now - end_issued_ < calls_->slow_reader_timeout_) return;
    end_issued_ = absl::InfiniteFuture();
    grpc_call_cancel_with_status(context_->c_call(), GRPC_STATUS_ABORTED,
                                 "the client did not take its answer", nullptr);
  }

 private:
  void OnCancel() override {
    if (Claim()) End(ClientIsGone());
  }
  void OnDone() override {
    {
      MutexLock lock(&mutex_);
      done_ = true;
    }
    calls_->Remove(shared_from_this());
  }

  // Whoever gets true ends the call; until then its response may be filled.
  bool Claim() {
    MutexLock lock(&mutex_);
    return !std::exchange(answered_, true);
  }
  void End(const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      end_issued_ = absl::Now();
    }
    FinishUnary(this, status);
  }

  TokenCalls* const calls_;
  grpc::CallbackServerContext* const context_;  // valid until OnDone
  const std::unique_ptr<TextBudget::Share> share_;
  Mutex mutex_;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time end_issued_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
};

TokenCalls::TokenCalls(Core* core, absl::Duration slow_reader_timeout)
    : core_(core), slow_reader_timeout_(slow_reader_timeout), budget_(kMostCalls, kMostBytes) {}

TokenCalls::~TokenCalls() = default;

grpc::ServerUnaryReactor* TokenCalls::Start(grpc::CallbackServerContext* context, int64_t bytes, Work work) {
  auto share = budget_.Take(bytes);
  if (!share.ok()) return FinishUnary(context, share.status());
  const auto call = std::make_shared<TokenCall>(this, context, *std::move(share));
  {
    MutexLock lock(&mutex_);
    calls_.insert(call);
  }
  core_->PostTextWork(TextUse::kCall, bytes,
                      [call, work = std::move(work)]() mutable { call->Run(std::move(work)); });
  return call.get();
}

void TokenCalls::CheckReaders(absl::Time now) {
  std::vector<std::shared_ptr<TokenCall>> calls;
  {
    MutexLock lock(&mutex_);
    calls.assign(calls_.begin(), calls_.end());
  }
  for (const auto& call : calls) call->CheckReader(now);
}

void TokenCalls::Remove(const std::shared_ptr<TokenCall>& call) {
  MutexLock lock(&mutex_);
  calls_.erase(call);
}

}  // namespace sessa
