#include "runtime/base/errors.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace sessa {
namespace {

constexpr char kReason[] = "sessa/reason";
constexpr char kField[] = "sessa/field";
constexpr char kResource[] = "sessa/resource";
constexpr char kRetryAfterMs[] = "sessa/retry_after_ms";

std::string Payload(const absl::Status& status, const char* url) {
  const auto cord = status.GetPayload(url);
  return cord ? std::string(*cord) : std::string();
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, absl::string_view message, const ErrorDetail& detail) {
  absl::Status status(code, message);
  auto set = [&status](const char* url, absl::string_view value) {
    if (!value.empty()) status.SetPayload(url, absl::Cord(value));
  };
  set(kReason, detail.reason);
  set(kField, detail.field);
  set(kResource, detail.resource);
  if (detail.retry_after) set(kRetryAfterMs, absl::StrCat(absl::ToInt64Milliseconds(*detail.retry_after)));
  return status;
}

ErrorDetail GetErrorDetail(const absl::Status& status) {
  ErrorDetail detail{Payload(status, kReason), Payload(status, kField), Payload(status, kResource), {}};
  int64_t ms = 0;
  if (absl::SimpleAtoi(Payload(status, kRetryAfterMs), &ms)) detail.retry_after = absl::Milliseconds(ms);
  return detail;
}

absl::Status InvalidField(absl::string_view field, absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat(field, ": ", message),
                   {.reason = "INVALID_FIELD", .field = std::string(field)});
}

absl::Status SessionNotFound(absl::string_view session_id) {
  return MakeError(absl::StatusCode::kNotFound, "no session with this ID",
                   {.reason = "SESSION_NOT_FOUND", .resource = absl::StrCat("session/", session_id)});
}

absl::Status Shed(absl::string_view reason, absl::string_view message, absl::Duration retry_after) {
  return MakeError(absl::StatusCode::kResourceExhausted, message,
                   {.reason = std::string(reason), .retry_after = retry_after});
}

}  // namespace sessa
