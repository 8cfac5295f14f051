#include "runtime/text/utf8.h"

#include <random>

#include "gtest/gtest.h"

namespace sessa {
namespace {

#define FFFD "\xEF\xBF\xBD"

std::string Decode(absl::string_view bytes) {
  std::string text;
  Utf8Decoder decoder;
  decoder.Append(bytes, &text);
  decoder.Finish(&text);
  return text;
}

// Written from the tables of the standard, another way than the decoder: by decoding the number.
bool IsCharacter(absl::string_view s) {
  if (s.empty()) return false;
  const unsigned char lead = s[0];
  const size_t size = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
  if (size != s.size()) return false;
  uint32_t code = size == 1 ? lead : lead & (0x7F >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((s[i] & 0xC0) != 0x80) return false;
    code = code << 6 | (s[i] & 0x3F);
  }
  const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  return code >= least[size] && code <= 0x10FFFF && !(code >= 0xD800 && code <= 0xDFFF);
}

TEST(Utf8Test, WholeTextPasses) {
  for (const char* text : {"", "plain", "h\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80!", "\xEF\xBF\xBF",
                           "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF\xEE\x80\x80"}) {
    EXPECT_EQ(Decode(text), text);
    EXPECT_TRUE(IsValidUtf8(text));
  }
  EXPECT_EQ(Decode(absl::string_view("a\0b", 3)), std::string("a\0b", 3));
}

// Unicode 15, section 3.9, tables 3-8 to 3-11: one U+FFFD for each maximal subpart.
TEST(Utf8Test, IllFormedSequencesBecomeReplacementCharacters) {
  const struct {
    const char* bytes;
    const char* text;
  } rows[] = {
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", FFFD FFFD FFFD FFFD "A"},
      {"\x80", FFFD},
      {"\xC3", FFFD},
      {"\xC3(", FFFD "("},
      {"\xF0\x9F\x98", FFFD},
      {"\xF0\x9F\x98\xF0\x9F\x98\x80", FFFD "\xF0\x9F\x98\x80"},
      {"\xFE\xFF", FFFD FFFD},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(Decode(row.bytes), row.text);
    EXPECT_FALSE(IsValidUtf8(row.bytes));
  }
}

TEST(Utf8Test, HoldsAnUnfinishedCharacterOnly) {
  Utf8Decoder decoder;
  std::string text;
  decoder.Append("a\xF0", &text);
  EXPECT_EQ(text, "a");
  EXPECT_TRUE(decoder.holds());
  decoder.Append("\x9F\x98", &text);
  EXPECT_EQ(text, "a");
  decoder.Append("\x80", &text);
  EXPECT_EQ(text, "a\xF0\x9F\x98\x80");
  EXPECT_FALSE(decoder.holds());
  decoder.Append("\xC3", &text);
  decoder.Finish(&text);
  EXPECT_EQ(text, "a\xF0\x9F\x98\x80" FFFD);
  decoder.Append("\xA9", &text);  // the held byte is gone
  EXPECT_EQ(text, "a\xF0\x9F\x98\x80" FFFD FFFD);
}

TEST(Utf8Test, EveryCharacterAndNothingElseIsValid) {
  for (uint32_t lead = 0; lead < 256; ++lead) {
    for (uint32_t second = 0; second < 256; ++second) {
      for (const char* rest : {"", "\x80", "\xBF", "\x80\x80", "\xBF\xBF"}) {
        const std::string bytes = std::string{static_cast<char>(lead), static_cast<char>(second)} + rest;
        bool one_or_more = IsCharacter(bytes);
        for (size_t i = 1; i < bytes.size(); ++i) {  // or two valid parts; three cannot be with these rests
          one_or_more |= IsCharacter(bytes.substr(0, i)) && IsCharacter(bytes.substr(i));
        }
        ASSERT_EQ(IsValidUtf8(bytes), one_or_more) << lead << " " << second << " " << rest;
      }
    }
  }
}

TEST(Utf8Test, AnySplitGivesTheSameValidText) {
  std::mt19937 random(1);
  // Bytes from which characters come about often.
  const std::string alphabet = "a\x80\x9F\xA0\xBF\xC2\xC3\xE0\xE2\xED\xEF\xF0\xF4\xF5\xFF";
  for (int trial = 0; trial < 20'000; ++trial) {
    std::string bytes;
    for (size_t i = random() % 12; i > 0; --i) bytes.push_back(alphabet[random() % alphabet.size()]);
    std::string text;
    Utf8Decoder decoder;
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = 1 + random() % 3;
      decoder.Append(absl::string_view(bytes).substr(at, size), &text);
      ASSERT_TRUE(IsValidUtf8(text));
      at += size;
    }
    decoder.Finish(&text);
    ASSERT_TRUE(IsValidUtf8(text));
    ASSERT_EQ(text, Decode(bytes));
  }
}

}  // namespace
}  // namespace sessa
