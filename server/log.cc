#include "server/log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace sessa {
namespace {

bool g_json = false;  // set once at start

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

const char* Name(LogLevel level) {
  return level == LogLevel::kInfo ? "info" : level == LogLevel::kWarning ? "warning" : "error";
}

std::string TextLine(absl::string_view message, std::initializer_list<LogField> fields) {
  std::string line(message);
  for (const auto& [key, value] : fields) {
    const std::string escaped = EscapeForLog(value);
    const bool quote = escaped.empty() || escaped.find_first_of(" =") != std::string::npos;
    absl::StrAppend(&line, " ", key, "=", quote ? "\"" : "", escaped, quote ? "\"" : "");
  }
  return line;
}

std::string JsonLine(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) {
  nlohmann::ordered_json object;
  object["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone());
  object["level"] = Name(level);
  object["message"] = std::string(message);
  for (const auto& [key, value] : fields) object[std::string(key)] = value.substr(0, 512);
  // ensure_ascii and "replace": any bytes become printable ASCII.
  return object.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

// At most one message a second; the others are counted.
class Throttle {
 public:
  // Nothing: this one is not to be logged. Otherwise how many were not logged before it.
  std::optional<int64_t> Pass() {
    const int64_t now = absl::ToUnixSeconds(absl::Now());
    if (last_second_.exchange(now) != now) return dropped_.exchange(0);
    ++dropped_;
    return std::nullopt;
  }

 private:
  std::atomic<int64_t> last_second_{0}, dropped_{0};
};

void OnProtobufMessage(google::protobuf::LogLevel, const char*, int, const std::string& message) {
  static Throttle throttle;
  if (const auto dropped = throttle.Pass()) {
    Log(LogLevel::kWarning, "malformed message from a client",
        {{"error", message}, {"not_logged_before", absl::StrCat(*dropped)}});
  }
}

void OnGrpcMessage(gpr_log_func_args* args) {
  static Throttle throttle;
  // A failed bind, which the daemon explains better.
  if (absl::EndsWith(args->file, "chttp2_server.cc")) return;
  if (const auto dropped = throttle.Pass()) {
    Log(LogLevel::kWarning, "gRPC says",
        {{"message", args->message}, {"not_logged_before", absl::StrCat(*dropped)}});
  }
}

}  // namespace

void StartLogging(bool json) {
  g_json = json;
  auto logger = std::make_shared<spdlog::logger>("sessad", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(json ? "%v" : "%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) {
  const std::string line = g_json ? JsonLine(level, message, fields) : TextLine(message, fields);
  spdlog::default_logger_raw()->log(ToSpdlog(level), "{}", line);
}

std::string EscapeForLog(absl::string_view text, size_t limit) {
  std::string escaped = absl::CHexEscape(text.substr(0, limit));
  if (text.size() > limit) absl::StrAppend(&escaped, "...");
  return escaped;
}

void CaptureLibraryMessages() {
  google::protobuf::SetLogHandler(&OnProtobufMessage);
  gpr_set_log_function(&OnGrpcMessage);
}

}  // namespace sessa
