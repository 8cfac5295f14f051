#include "client/rpc_errors.h"

#include <grpcpp/support/status.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/proto_time.h"
#include "client/text.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "runtime/base/errors.h"

namespace sessa {
namespace {

ErrorDetail ReadDetails(const std::string& serialized) {
  ErrorDetail detail;
  google::rpc::Status rich;
  if (!rich.ParseFromString(serialized)) return detail;
  for (const auto& any : rich.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad_request;
    google::rpc::RetryInfo retry;
    google::rpc::ResourceInfo resource;
    if (any.UnpackTo(&info)) {
      detail.reason = info.reason();
    } else if (any.UnpackTo(&bad_request)) {
      if (bad_request.field_violations_size() > 0) detail.field = bad_request.field_violations(0).field();
    } else if (any.UnpackTo(&retry)) {
      detail.retry_after = ToDuration(retry.retry_delay());
    } else if (any.UnpackTo(&resource)) {
      detail.resource = resource.resource_type().empty() || absl::StrContains(resource.resource_name(), "/")
                            ? resource.resource_name()
                            : absl::StrCat(resource.resource_type(), "/", resource.resource_name());
    }
  }
  return detail;
}

// What the user can do about it; empty where the message says it all.
std::string Advice(const absl::Status& status, const ErrorDetail& detail, absl::string_view server) {
  if (detail.retry_after) {
    return absl::StrCat("Try again in ", absl::FormatDuration(*detail.retry_after), ".");
  }
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      // A server that answered has given a reason; without one nobody is there.
      if (!detail.reason.empty()) return "";
      return absl::StrCat("No daemon answers at ", server, ". Start one with `sessad --listen=", server,
                          "`, or name another with --server=HOST:PORT.");
    case absl::StatusCode::kNotFound:
      if (detail.reason != "SESSION_NOT_FOUND") return "";
      return "`sessactl sessions list` shows the sessions that exist; a session ends after its idle time.";
    case absl::StatusCode::kDeadlineExceeded:
      return "Give the call more time with --timeout.";
    case absl::StatusCode::kUnimplemented:
      if (!status.message().empty()) return "";
      return absl::StrCat("The server at ", server,
                          " does not know this call or could not read the message.");
    default:
      return "";
  }
}

}  // namespace

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return MakeError(static_cast<absl::StatusCode>(status.error_code()), status.error_message(),
                   ReadDetails(status.error_details()));
}

std::string DescribeError(const absl::Status& status, absl::string_view server) {
  const ErrorDetail detail = GetErrorDetail(status);
  std::string text = absl::StatusCodeToString(status.code());
  if (!detail.reason.empty()) absl::StrAppend(&text, " (", detail.reason, ")");
  if (!status.message().empty()) absl::StrAppend(&text, ": ", status.message());
  std::string where;
  if (!detail.field.empty() && !absl::StrContains(status.message(), detail.field)) {
    absl::StrAppend(&where, "field ", detail.field);
  }
  if (!detail.resource.empty() && !absl::StrContains(status.message(), detail.resource)) {
    absl::StrAppend(&where, where.empty() ? "" : ", ", detail.resource);
  }
  if (!where.empty()) absl::StrAppend(&text, "\n", where);
  const std::string advice = Advice(status, detail, server);
  if (!advice.empty()) absl::StrAppend(&text, "\n", advice);
  return TerminalText(text);
}

std::string ErrorToJson(const absl::Status& status) {
  const ErrorDetail detail = GetErrorDetail(status);
  nlohmann::ordered_json json;
  json["code"] = absl::StatusCodeToString(status.code());
  json["message"] = std::string(status.message());
  if (!detail.reason.empty()) json["reason"] = detail.reason;
  if (!detail.field.empty()) json["field"] = detail.field;
  if (!detail.resource.empty()) json["resource"] = detail.resource;
  if (detail.retry_after) json["retry_after_seconds"] = absl::ToDoubleSeconds(*detail.retry_after);
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      return kExitUnavailable;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kExitInvalid;
    case absl::StatusCode::kCancelled:
      return kExitCancelled;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitDeadline;
    case absl::StatusCode::kUnimplemented:
      return kExitUnimplemented;
    default:
      return kExitFailed;
  }
}

}  // namespace sessa
