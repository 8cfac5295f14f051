// Text for people and text from people. Thread-safe functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace sessa {

// UTF-8 text with everything that could steer a terminal (C0 other than newline and tab, DEL, C1,
// bidirectional overrides) replaced by U+FFFD, as are bytes that are not UTF-8.
std::string TerminalText(absl::string_view text);

// Place of the first byte that is no part of a UTF-8 character; npos where there is none.
size_t FindNonUtf8(absl::string_view text);

// Resolves \n \t \r \\ \, \xHH. INVALID_ARGUMENT for another escape or a backslash at the end.
absl::StatusOr<std::string> ParseEscaped(absl::string_view text);

// Splits at commas and resolves each part like ParseEscaped, so that "\\n,User:" gives a newline and "User:".
// An empty text gives no items.
absl::StatusOr<std::vector<std::string>> ParseEscapedList(absl::string_view text);

// "1,2,3", also with spaces. INVALID_ARGUMENT names the item that is not a number.
absl::StatusOr<std::vector<int32_t>> ParseIds(absl::string_view text);

// "7:-1.5,20:3".
absl::StatusOr<std::map<int32_t, float>> ParseBias(absl::string_view text);

std::string FormatBytes(int64_t bytes);              // "1.5 MiB"
std::string FormatCount(double count);               // "12", "1.20k", "3.40M"
std::string FormatSeconds(absl::Duration duration);  // "0 s", "12 us", "3.4 ms", "1.25 s", "2m 5s", "3h 4m"

// 32 hexadecimal digits at random: a request_id.
std::string RandomId();

}  // namespace sessa
