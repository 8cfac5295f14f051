// UTF-8 out of bytes that arrive piece by piece.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace sessa {

// Passes on whole characters and holds back an unfinished one. What can be no part of a character becomes
// U+FFFD, one for each maximal subpart of an ill-formed sequence (Unicode, section 3.9). How the bytes are
// cut into calls makes no difference. One thread at a time.
class Utf8Decoder {
 public:
  void Append(absl::string_view bytes, std::string* text);  // appends to *text, always valid UTF-8
  void Finish(std::string* text);  // an unfinished character becomes U+FFFD; the decoder is as new
  bool holds() const { return held_ > 0; }

 private:
  void Lead(unsigned char byte, std::string* text);

  char bytes_[4];             // of the unfinished character
  int held_ = 0;              // of them
  int size_ = 0;              // of the character when it is whole
  unsigned char low_ = 0x80;  // bounds of its next byte
  unsigned char high_ = 0xBF;
};

bool IsValidUtf8(absl::string_view text);

}  // namespace sessa
