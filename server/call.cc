#include "server/call.h"

#include <chrono>

#include "absl/random/random.h"
#include "absl/strings/str_format.h"
#include "runtime/base/clock.h"
#include "server/error_details.h"

namespace sessa {

Principal CallerOf(const grpc::CallbackServerContext&) { return Principal(); }

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return Clock::Real()->Now() + absl::FromChrono(deadline - std::chrono::system_clock::now());
}

void FinishUnary(grpc::ServerUnaryReactor* reactor, const absl::Status& status) {
  reactor->Finish(status.ok() ? grpc::Status::OK : ToGrpcStatus(status));
}

grpc::ServerUnaryReactor* FinishUnary(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  FinishUnary(reactor, status);
  return reactor;
}

uint64_t RandomBits() {
  static thread_local absl::BitGen generator;
  return absl::Uniform<uint64_t>(generator);
}

std::string RandomId() { return absl::StrFormat("%016x%016x", RandomBits(), RandomBits()); }

}  // namespace sessa
