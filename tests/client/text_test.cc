#include "client/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sessa {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(TerminalText, KeepsTextNewlinesAndTabs) {
  EXPECT_EQ(TerminalText("Zoë said: 好\n\t😀"), "Zoë said: 好\n\t😀");
}

TEST(TerminalText, ReplacesWhatSteersATerminal) {
  EXPECT_EQ(TerminalText("a\x1B[31mb"), "a\uFFFD[31mb");
  EXPECT_EQ(TerminalText("a\rb\x07\x7F"), "a\uFFFDb\uFFFD\uFFFD");
  EXPECT_EQ(TerminalText("\u009B31m"), "\uFFFD31m") << "C1 control sequence introducer";
  EXPECT_EQ(TerminalText("\u202Eabc"), "\uFFFDabc") << "right-to-left override";
}

TEST(TerminalText, ReplacesBytesThatAreNotUtf8) {
  EXPECT_EQ(TerminalText("a\xFFz"), "a\uFFFDz");
  EXPECT_EQ(TerminalText("\xC3"), "\uFFFD") << "cut off";
  EXPECT_EQ(TerminalText("\xC0\x9B"), "\uFFFD\uFFFD") << "overlong escape";
  EXPECT_EQ(TerminalText("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD") << "surrogate";
}

TEST(ParseEscapedList, SplitsAndResolves) {
  EXPECT_THAT(*ParseEscapedList(""), IsEmpty());
  EXPECT_THAT(*ParseEscapedList("\\n,User:"), ElementsAre("\n", "User:"));
  EXPECT_THAT(*ParseEscapedList("a\\,b\\x41\\\\"), ElementsAre("a,bA\\"));
  EXPECT_THAT(*ParseEscapedList(",\\x2C,"), ElementsAre("", ",", ""));
  EXPECT_THAT(*ParseEscapedList("a,"), ElementsAre("a", ""))
      << "the server refuses the empty one, naming the field";
}

TEST(ParseEscapedList, RefusesUnknownEscapes) {
  for (const char* text : {"\\", "\\q", "\\x4", "a\\"}) EXPECT_FALSE(ParseEscapedList(text).ok()) << text;
}

TEST(ParseEscaped, ResolvesTheWholeText) {
  EXPECT_EQ(*ParseEscaped("Q: {}\\nA: a,b\\\\"), "Q: {}\nA: a,b\\");
  EXPECT_EQ(*ParseEscaped(""), "");
}

TEST(FindNonUtf8, TellsThePlace) {
  EXPECT_EQ(FindNonUtf8("Zoë 好 😀"), std::string::npos);
  EXPECT_EQ(FindNonUtf8(""), std::string::npos);
  EXPECT_EQ(FindNonUtf8("Zoë\xFF"), 4u);
  EXPECT_EQ(FindNonUtf8("a\xE5\xA5"), 1u) << "cut off";
}

TEST(ParseIds, ReadsNumbersAndNamesWhatIsNone) {
  EXPECT_THAT(*ParseIds("1, 907 549"), ElementsAre(1, 907, 549));
  EXPECT_THAT(ParseIds("1,x7").status().message(), ::testing::HasSubstr("x7"));
  EXPECT_FALSE(ParseIds("99999999999").ok());
}

TEST(ParseBias, ReadsPairs) {
  EXPECT_THAT(*ParseBias("7:-1.5,20:3"), ElementsAre(Pair(7, -1.5f), Pair(20, 3.0f)));
  EXPECT_FALSE(ParseBias("7").ok());
  EXPECT_FALSE(ParseBias("a:1").ok());
}

TEST(Format, ReadsWell) {
  EXPECT_EQ(FormatBytes(512), "512 B");
  EXPECT_EQ(FormatBytes(3 << 19), "1.5 MiB");
  EXPECT_EQ(FormatCount(12), "12");
  EXPECT_EQ(FormatCount(34567), "34.6k");
  EXPECT_EQ(FormatSeconds(absl::ZeroDuration()), "0 s");
  EXPECT_EQ(FormatSeconds(absl::Microseconds(12)), "12 us");
  EXPECT_EQ(FormatSeconds(absl::Milliseconds(3.4)), "3.40 ms");
  EXPECT_EQ(FormatSeconds(absl::Seconds(125)), "2m 5s");
}

TEST(RandomId, IsLongAndDifferent) {
  EXPECT_EQ(RandomId().size(), 32u);
  EXPECT_NE(RandomId(), RandomId());
}

}  // namespace
}  // namespace sessa
