// Values that several flags share.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sessa {

// A number of bytes with an optional suffix K, M, G or T (powers of 1,024): "512M". INVALID_ARGUMENT
// otherwise.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

// Splits HOST:PORT ("127.0.0.1:50051", "[::1]:50051"). Port 0 asks the system for a free one.
struct HostPort {
  std::string host;
  int32_t port = 0;
};
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);

}  // namespace sessa
