// Structured log lines on stderr. What came from a client is escaped: a log line holds no control characters.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace sessa {

enum class LogLevel { kInfo, kWarning, kError };
using LogField = std::pair<absl::string_view, std::string>;

// Call once, before threads start. json: one object a line {"time", "level", "message", fields...}; otherwise
// "TIME LEVEL message key=value".
void StartLogging(bool json);

// Thread-safe. `message` is one of our own constants; `fields` may hold anything.
void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});

// `text` with control characters, quotes, backslashes and bytes that are not ASCII as escapes, at most
// `limit` bytes of it.
std::string EscapeForLog(absl::string_view text, size_t limit = 512);

// Sends what protobuf (a line for each malformed request) and gRPC print by themselves to the log, each at
// most once a second.
void CaptureLibraryMessages();

}  // namespace sessa
