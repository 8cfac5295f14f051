#include "client/text.h"

#include <cmath>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace sessa {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

// Length of the well-formed UTF-8 character at the start of `text` and its code point; 0 where there is none.
size_t DecodeUtf8(absl::string_view text, uint32_t* code_point) {
  const auto byte = [&text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  size_t length = first < 0x80 ? 1 : first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first >= 0x80 && (first < 0xC2 || first > 0xF4)) return 0;
  if (text.size() < length) return 0;
  uint32_t value = length == 1 ? first : first & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    value = value << 6 | (byte(i) & 0x3F);
  }
  const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
  if (overlong || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return 0;
  *code_point = value;
  return length;
}

bool SteersTerminal(uint32_t c) {
  if (c == '\n' || c == '\t') return false;
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

}  // namespace

std::string TerminalText(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    uint32_t c = 0;
    const size_t length = DecodeUtf8(text, &c);
    if (length == 0 || SteersTerminal(c)) {
      absl::StrAppend(&out, kReplacement);
    } else {
      absl::StrAppend(&out, text.substr(0, length));
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out;
}

size_t FindNonUtf8(absl::string_view text) {
  for (size_t at = 0; at < text.size();) {
    uint32_t c = 0;
    const size_t length = DecodeUtf8(text.substr(at), &c);
    if (length == 0) return at;
    at += length;
  }
  return absl::string_view::npos;
}

absl::StatusOr<std::string> ParseEscaped(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out.push_back(text[i]);
      continue;
    }
    const char kind = ++i < text.size() ? text[i] : '\0';
    const absl::string_view hex = kind == 'x' ? text.substr(i + 1, 2) : absl::string_view();
    if (hex.size() == 2 && absl::ascii_isxdigit(hex[0]) && absl::ascii_isxdigit(hex[1])) {
      absl::StrAppend(&out, absl::HexStringToBytes(hex));
      i += 2;
    } else if (const size_t known = absl::string_view("ntr\\,").find(kind);
               known != absl::string_view::npos) {
      out.push_back("\n\t\r\\,"[known]);
    } else {
      return absl::InvalidArgumentError("after a backslash comes n, t, r, a backslash, a comma or xHH");
    }
  }
  return out;
}

absl::StatusOr<std::vector<std::string>> ParseEscapedList(absl::string_view text) {
  std::vector<std::string> items;
  while (!text.empty() || !items.empty()) {
    size_t end = 0;  // of the item: a comma that no backslash precedes
    while (end < text.size() && text[end] != ',') end += text[end] == '\\' ? 2 : 1;
    auto item = ParseEscaped(text.substr(0, end));
    if (!item.ok()) return item.status();
    items.push_back(*std::move(item));
    if (end >= text.size()) break;
    text.remove_prefix(end + 1);
  }
  return items;
}

absl::StatusOr<std::vector<int32_t>> ParseIds(absl::string_view text) {
  std::vector<int32_t> ids;
  for (absl::string_view item : absl::StrSplit(text, absl::ByAnyChar(", \t\n"), absl::SkipEmpty())) {
    if (!absl::SimpleAtoi(item, &ids.emplace_back())) {
      return absl::InvalidArgumentError(absl::StrCat("'", item, "' is not a token id"));
    }
  }
  return ids;
}

absl::StatusOr<std::map<int32_t, float>> ParseBias(absl::string_view text) {
  std::map<int32_t, float> bias;
  for (absl::string_view item : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(item, absl::MaxSplits(':', 1));
    int32_t id = 0;
    float value = 0;
    if (!absl::SimpleAtoi(parts.first, &id) || !absl::SimpleAtof(parts.second, &value)) {
      return absl::InvalidArgumentError(absl::StrCat("'", item, "' is not ID:BIAS"));
    }
    bias[id] = value;
  }
  return bias;
}

std::string FormatBytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string FormatCount(double count) {
  if (count >= 1e9) return absl::StrFormat("%.2fG", count / 1e9);
  if (count >= 1e6) return absl::StrFormat("%.2fM", count / 1e6);
  if (count >= 1e4) return absl::StrFormat("%.1fk", count / 1e3);
  if (count >= 100 || count == std::floor(count)) return absl::StrFormat("%.0f", count);
  return absl::StrFormat("%.1f", count);
}

std::string FormatSeconds(absl::Duration duration) {
  const double s = absl::ToDoubleSeconds(duration);
  if (s == 0) return "0 s";
  if (s < 1e-3) return absl::StrFormat("%.0f us", s * 1e6);
  if (s < 0.1) return absl::StrFormat("%.2f ms", s * 1e3);
  if (s < 1) return absl::StrFormat("%.0f ms", s * 1e3);
  if (s < 60) return absl::StrFormat("%.2f s", s);
  const int64_t whole = static_cast<int64_t>(s);
  if (whole < 3600) return absl::StrFormat("%dm %ds", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%dh %dm", whole / 3600, whole / 60 % 60);
  return absl::StrFormat("%dd %dh", whole / 86400, whole / 3600 % 24);
}

std::string RandomId() {
  std::random_device device;
  std::string id;
  for (int i = 0; i < 4; ++i) absl::StrAppendFormat(&id, "%08x", device());
  return id;
}

}  // namespace sessa
