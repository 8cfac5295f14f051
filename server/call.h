// Small things that every service needs of a call.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "scheduler/request.h"

namespace sessa {

// Who calls: one constant until there is authentication.
Principal CallerOf(const grpc::CallbackServerContext& context);
// The call's deadline by Clock::Real(); infinite when it has none.
absl::Time DeadlineOf(const grpc::CallbackServerContext& context);

// Ends a unary call.
grpc::ServerUnaryReactor* FinishUnary(grpc::CallbackServerContext* context, const absl::Status& status);
void FinishUnary(grpc::ServerUnaryReactor* reactor, const absl::Status& status);

// Random numbers for seeds and IDs that nobody needs to guess.
uint64_t RandomBits();
std::string RandomId();  // 32 hexadecimal digits

}  // namespace sessa
