// Errors that carry what a client needs to act on them. The server turns them into google.rpc details; below
// it they are plain absl::Status, so scheduler/ and runtime/ know nothing of gRPC.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace sessa {

// What an error says beside code and message. Reasons are UPPER_SNAKE_CASE constants, stable for clients
// (docs/operations.md lists them); `field` is a dotted request field; `resource` is "session/ID" and the
// like.
struct ErrorDetail {
  std::string reason;
  std::string field;
  std::string resource;
  std::optional<absl::Duration> retry_after;  // set on every shed
};

absl::Status MakeError(absl::StatusCode code, absl::string_view message, const ErrorDetail& detail);
// The detail of a status; an empty reason when it was made without one.
ErrorDetail GetErrorDetail(const absl::Status& status);

// Shorthands for the common cases.
absl::Status InvalidField(absl::string_view field,
                          absl::string_view message);        // INVALID_ARGUMENT, INVALID_FIELD
absl::Status SessionNotFound(absl::string_view session_id);  // NOT_FOUND, SESSION_NOT_FOUND
absl::Status Shed(absl::string_view reason, absl::string_view message,
                  absl::Duration retry_after);  // RESOURCE_EXHAUSTED

}  // namespace sessa
