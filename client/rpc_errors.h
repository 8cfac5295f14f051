// Errors of calls, as a person or a script needs them. Thread-safe functions.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace grpc {
class Status;
}

namespace sessa {

// The status with its google.rpc details as an ErrorDetail (runtime/base/errors.h): reason, field, resource,
// retry_after. Details that cannot be read are left out; the code and message always come through.
absl::Status FromGrpcStatus(const grpc::Status& status);

// One to three lines for a terminal, without control characters and without a newline at the end: what went
// wrong and what to do next. `server` is HOST:PORT as the user gave it.
std::string DescribeError(const absl::Status& status, absl::string_view server);

// {"code":"ABORTED","message":...,"reason":...,"field":...,"resource":...,"retry_after_seconds":...}; empty
// ones are left out.
std::string ErrorToJson(const absl::Status& status);

// What a program exits with. Listed in `sessactl --help`.
enum ExitCode : int {
  kExitOk = 0,
  kExitUsage = 1,
  kExitUnavailable = 2,  // not reachable, starting, draining, or refused for load: try again later
  kExitInvalid = 3,      // the request is at fault: invalid, not found, aborted, precondition
  kExitCancelled = 4,
  kExitDeadline = 5,
  kExitUnimplemented = 6,
  kExitFailed = 7,  // the server failed, or something else did
};
ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace sessa
