#include "runtime/text/utf8.h"

namespace sessa {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

// The first byte of a character. Which bytes may follow it: Unicode, table 3-7.
void Utf8Decoder::Lead(unsigned char byte, std::string* text) {
  low_ = 0x80;
  high_ = 0xBF;
  if (byte < 0x80) {
    text->push_back(static_cast<char>(byte));
    return;
  }
  if (byte < 0xC2 || byte > 0xF4) {
    text->append(kReplacement.data(), kReplacement.size());
    return;
  }
  size_ = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  if (byte == 0xE0) low_ = 0xA0;   // else overlong
  if (byte == 0xED) high_ = 0x9F;  // else a surrogate
  if (byte == 0xF0) low_ = 0x90;   // else overlong
  if (byte == 0xF4) high_ = 0x8F;  // else above U+10FFFF
  bytes_[0] = static_cast<char>(byte);
  held_ = 1;
}

void Utf8Decoder::Append(absl::string_view bytes, std::string* text) {
  for (const char c : bytes) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (held_ > 0 && (byte < low_ || byte > high_)) Finish(text);
    if (held_ == 0) {
      Lead(byte, text);
      continue;
    }
    bytes_[held_++] = c;
    low_ = 0x80;
    high_ = 0xBF;
    if (held_ == size_) {
      text->append(bytes_, size_);
      held_ = 0;
    }
  }
}

void Utf8Decoder::Finish(std::string* text) {
  if (held_ > 0) text->append(kReplacement.data(), kReplacement.size());
  held_ = 0;
}

bool IsValidUtf8(absl::string_view text) {
  // Decoding replaces what is wrong, and only that.
  std::string decoded;
  decoded.reserve(text.size());
  Utf8Decoder decoder;
  decoder.Append(text, &decoded);
  return !decoder.holds() && decoded == text;
}

}  // namespace sessa
