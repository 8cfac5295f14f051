#include "server/flag_values.h"

#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sessa {

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat("must be a number of bytes with an optional suffix K, M, G or T, not '", text, "'"));
  absl::string_view digits = text;
  int shift = 0;
  const absl::string_view suffixes = "KMGT";
  if (!digits.empty()) {
    const size_t i = suffixes.find(absl::ascii_toupper(digits.back()));
    if (i != absl::string_view::npos) {
      shift = 10 * static_cast<int>(i + 1);
      digits.remove_suffix(1);
    }
  }
  int64_t number = 0;
  if (digits.empty() || !absl::ascii_isdigit(digits[0]) || !absl::SimpleAtoi(digits, &number)) return bad;
  if (number > (std::numeric_limits<int64_t>::max() >> shift)) return bad;
  return number << shift;
}

absl::StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat("must be HOST:PORT with a port of 0 to 65535, not '", text, "'"));
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) return bad;
  absl::string_view host = text.substr(0, colon), port = text.substr(colon + 1);
  const bool bracketed = absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  if (host.empty() || (!bracketed && absl::StrContains(host, ':'))) return bad;
  HostPort result{std::string(host), 0};
  if (port.empty() || !absl::ascii_isdigit(port[0]) || !absl::SimpleAtoi(port, &result.port)) return bad;
  if (result.port > 65535) return bad;
  return result;
}

}  // namespace sessa
