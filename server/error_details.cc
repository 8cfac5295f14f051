#include "server/error_details.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "runtime/base/errors.h"

namespace sessa {
namespace {

// Metadata is limited to 8 KiB in all, and the message travels twice.
constexpr size_t kMaxMessage = 1024;
constexpr size_t kMaxName = 256;
constexpr absl::Duration kDefaultRetry = absl::Seconds(1);

// Valid UTF-8 without control characters: protobuf strings and logs at the other end take nothing else.
std::string Clean(absl::string_view text, size_t limit) {
  std::string clean;
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    clean += byte < 0x20 || byte >= 0x7f ? '?' : c;
  }
  return clean;
}

std::string Reason(const absl::Status& status, const ErrorDetail& detail) {
  return detail.reason.empty() ? absl::StatusCodeToString(status.code()) : Clean(detail.reason, kMaxName);
}

bool MustCarryRetry(absl::StatusCode code) {
  return code == absl::StatusCode::kResourceExhausted || code == absl::StatusCode::kUnavailable;
}

void AddRetry(absl::Duration delay, google::rpc::Status* out) {
  google::rpc::RetryInfo retry;
  const int64_t ns = absl::ToInt64Nanoseconds(delay);
  retry.mutable_retry_delay()->set_seconds(ns / 1'000'000'000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(ns % 1'000'000'000));
  out->add_details()->PackFrom(retry);
}

void AddField(const std::string& field, const std::string& message, google::rpc::Status* out) {
  google::rpc::BadRequest bad;
  auto* violation = bad.add_field_violations();
  violation->set_field(Clean(field, kMaxName));
  violation->set_description(message);
  out->add_details()->PackFrom(bad);
}

// "session/ID" becomes type "session", name "ID".
void AddResource(const std::string& resource, const std::string& message, google::rpc::Status* out) {
  google::rpc::ResourceInfo info;
  const std::string clean = Clean(resource, kMaxName);
  const size_t slash = clean.find('/');
  info.set_resource_type(clean.substr(0, slash));
  if (slash != std::string::npos) info.set_resource_name(clean.substr(slash + 1));
  info.set_description(message);
  out->add_details()->PackFrom(info);
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  const ErrorDetail detail = GetErrorDetail(status);
  const std::string message = Clean(status.message(), kMaxMessage);
  google::rpc::Status out;
  out.set_code(static_cast<int>(status.code()));
  out.set_message(message);

  google::rpc::ErrorInfo info;
  info.set_reason(Reason(status, detail));
  info.set_domain(kErrorDomain);
  out.add_details()->PackFrom(info);
  if (detail.retry_after || MustCarryRetry(status.code())) {
    AddRetry(detail.retry_after.value_or(kDefaultRetry), &out);
  }
  if (!detail.field.empty()) AddField(detail.field, message, &out);
  if (!detail.resource.empty()) AddResource(detail.resource, message, &out);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message, out.SerializeAsString());
}

absl::Status NotImplemented(absl::string_view feature) {
  return MakeError(absl::StatusCode::kUnimplemented,
                   absl::StrCat("this server does not have ", feature, " yet"),
                   {.reason = "NOT_IMPLEMENTED"});
}

}  // namespace sessa
