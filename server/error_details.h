// Errors as clients get them: canonical codes with google.rpc details.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sessa {

inline constexpr char kErrorDomain[] = "sessa.v1";  // of every ErrorInfo

// The status with its details as google.rpc.Status in grpc-status-details-bin: ErrorInfo always, RetryInfo
// for every shed (and every UNAVAILABLE), BadRequest for a field, ResourceInfo for a resource. Messages are
// cut so that they fit into metadata. REQUIRES: !status.ok().
grpc::Status ToGrpcStatus(const absl::Status& status);

// UNIMPLEMENTED, NOT_IMPLEMENTED: a feature of the API that this server does not have yet.
absl::Status NotImplemented(absl::string_view feature);

}  // namespace sessa
