// What text a turn's tokens give, token by token.
#include "runtime/text/text_stream.h"

#include <random>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/text/fake_tokenizer.h"

namespace sessa {
namespace {

using testing::ElementsAre;

// What came out of a stream.
struct Output {
  std::vector<std::string> pieces;  // one a token up to the stop, then what Finish gave
  std::string text;                 // all of it
  std::string stop;                 // the stop string matched
  int stop_token = -1;              // index of the token that completed it
};

Output Emit(const std::vector<std::string>& tokens, const TextOptions& options) {
  const FakeTokenizer tokenizer(tokens);
  TextStream stream(&tokenizer, options);
  Output out;
  for (int32_t i = 0; i < tokenizer.vocab_size() && out.stop_token < 0; ++i) {
    TextPiece piece = stream.Push(i);
    EXPECT_TRUE(IsValidUtf8(piece.text));
    out.pieces.push_back(piece.text);
    if (piece.stop_matched) {
      out.stop = *piece.stop_matched;
      out.stop_token = i;
    }
  }
  out.pieces.push_back(stream.Finish());
  for (const std::string& piece : out.pieces) out.text += piece;
  return out;
}

TEST(TextStreamTest, TextPassesAtOnceWhereNothingIsHeldBack) {
  EXPECT_THAT(Emit({"Hello", ",", " world"}, {}).pieces, ElementsAre("Hello", ",", " world", ""));
}

TEST(TextStreamTest, CharactersAreNotCut) {
  // An emoji out of four byte tokens, and one that is never finished.
  EXPECT_THAT(Emit({"a", "\xF0", "\x9F", "\x98", "\x80", "b"}, {}).pieces,
              ElementsAre("a", "", "", "", "\xF0\x9F\x98\x80", "b", ""));
  EXPECT_THAT(Emit({"a", "\xF0", "\x9F", "b"}, {}).pieces, ElementsAre("a", "", "",
                                                                       "\xEF\xBF\xBD"
                                                                       "b",
                                                                       ""));
  EXPECT_THAT(Emit({"a", "\xF0", "\x9F"}, {}).pieces, ElementsAre("a", "", "", "\xEF\xBF\xBD"));
}

TEST(TextStreamTest, SpecialTokens) {
  EXPECT_THAT(Emit({"a", "<s>", "b"}, {}).pieces, ElementsAre("a", "", "b", ""));
  EXPECT_THAT(Emit({"a", "<s>", "b"}, {.skip_special_tokens = false}).pieces,
              ElementsAre("a", "<s>", "b", ""));
  // A skipped token does not come between the bytes of a character; a shown one does.
  EXPECT_EQ(Emit({"\xC3", "<s>", "\xA9"}, {}).text, "\xC3\xA9");
  EXPECT_EQ(Emit({"\xC3", "<s>", "\xA9"}, {.skip_special_tokens = false}).text,
            "\xEF\xBF\xBD<s>\xEF\xBF\xBD");
}

TEST(TextStreamTest, WithoutATokenizerThereIsNoText) {
  TextStream stream(nullptr, {.stop = {"x"}});
  for (int32_t token = 0; token < 5; ++token) {
    const TextPiece piece = stream.Push(token);
    EXPECT_EQ(piece.text, "");
    EXPECT_FALSE(piece.stop_matched);
  }
  EXPECT_EQ(stream.Finish(), "");
}

TEST(TextStreamTest, StopInsideOneToken) {
  const Output out = Emit({"one", " two. three", " four"}, {.stop = {"."}});
  EXPECT_THAT(out.pieces, ElementsAre("one", " two", ""));
  EXPECT_EQ(out.stop, ".");
  EXPECT_EQ(out.stop_token, 1);
  EXPECT_EQ(Emit({"one", " two. three"}, {.stop = {"."}, .include_stop = true}).text, "one two.");
}

TEST(TextStreamTest, StopOverSeveralTokens) {
  const Output out = Emit({"a\n", "\n", "Q", ":", "x"}, {.stop = {"\n\nQ:"}});
  EXPECT_THAT(out.pieces, ElementsAre("a", "", "", "", ""));
  EXPECT_EQ(out.stop, "\n\nQ:");
  EXPECT_EQ(out.stop_token, 3);
  EXPECT_THAT(Emit({"a\n", "\n", "Q", ":", "x"}, {.stop = {"\n\nQ:"}, .include_stop = true}).pieces,
              ElementsAre("a", "", "", "\n\nQ:", ""));
}

TEST(TextStreamTest, WhatMightHaveBeenAStopIsReleased) {
  EXPECT_THAT(Emit({"a\n", "\n", "R"}, {.stop = {"\n\nQ:"}}).pieces, ElementsAre("a", "", "\n\nR", ""));
  EXPECT_THAT(Emit({"a\n", "\n", "\n", "Q"}, {.stop = {"\n\nQ:"}}).pieces,
              ElementsAre("a", "", "\n", "", "\n\nQ"));
}

TEST(TextStreamTest, AStopThatRepeatsItself) {
  // "aab" in "aaab": the automaton must fall back, not start anew.
  const Output out = Emit({"a", "a", "a", "b"}, {.stop = {"aab"}});
  EXPECT_EQ(out.text, "a");
  EXPECT_EQ(out.stop_token, 3);
  EXPECT_EQ(Emit({"abababac"}, {.stop = {"ababac"}}).text, "ab");
}

TEST(TextStreamTest, TheMatchThatEndsFirstWins) {
  EXPECT_EQ(Emit({"xabcdy"}, {.stop = {"abcd", "bc"}}).stop, "bc");
  EXPECT_EQ(Emit({"xabcdy"}, {.stop = {"abcd", "bc"}}).text, "xa");
  EXPECT_EQ(Emit({"xabcdy"}, {.stop = {"y", "abcd"}}).stop, "abcd");
}

TEST(TextStreamTest, OfMatchesThatEndTogetherTheLongestWins) {
  for (const std::vector<std::string>& stop :
       {std::vector<std::string>{"c", "abc", "bc"}, {"abc", "bc", "c"}}) {
    const Output out = Emit({"xa", "b", "c"}, {.stop = stop});
    EXPECT_EQ(out.stop, "abc");
    EXPECT_EQ(out.text, "x");
  }
}

TEST(TextStreamTest, StopStringsOfSeveralByteCharacters) {
  const Output out = Emit({"a\xF0", "\x9F\x98", "\x80z"}, {.stop = {"\xF0\x9F\x98\x80"}});
  EXPECT_EQ(out.text, "a");
  EXPECT_EQ(out.stop_token, 2);
  // The same first bytes, another character: it comes out whole.
  EXPECT_EQ(Emit({"a\xF0\x9F\x98\x81z"}, {.stop = {"\xF0\x9F\x98\x80"}}).text, "a\xF0\x9F\x98\x81z");
}

TEST(TextStreamTest, MinTokens) {
  const std::vector<std::string> tokens = {"a", ".", "b", ".", "c"};
  EXPECT_EQ(Emit(tokens, {.stop = {"."}, .min_tokens = 1}).text, "a");
  EXPECT_EQ(Emit(tokens, {.stop = {"."}, .min_tokens = 2}).text, "a.b");
  EXPECT_EQ(Emit(tokens, {.stop = {"."}, .min_tokens = 4}).text, "a.b.c");
  // Begins before, ends after.
  const Output out = Emit(tokens, {.stop = {".b."}, .min_tokens = 3});
  EXPECT_EQ(out.text, "a");
  EXPECT_EQ(out.stop_token, 3);
}

TEST(TextStreamTest, AStopStringIsNotCompletedByTheEnd) {
  const Output out = Emit({"a", "\xF0"}, {.stop = {"\xEF\xBF\xBD"}});
  EXPECT_EQ(out.text, "a\xEF\xBF\xBD");
  EXPECT_EQ(out.stop_token, -1);
}

TEST(DecodeTokensTest, IsTheTextOfAStream) {
  const FakeTokenizer tokenizer({"<s>", "a", "\xC3", "\xA9", "b"});
  EXPECT_EQ(DecodeTokens(tokenizer, {0, 1, 2, 3, 4}, true),
            "a\xC3\xA9"
            "b");
  EXPECT_EQ(DecodeTokens(tokenizer, {0, 1, 2}, false), "<s>a\xEF\xBF\xBD");
  EXPECT_EQ(DecodeTokens(tokenizer, {}, true), "");
}

// --- properties over random texts of few different bytes, so that stops begin and end everywhere
// ----------------

struct Case {
  std::vector<std::string> tokens;
  TextOptions options;
};

Case RandomCase(std::mt19937& random) {
  const std::vector<std::string> bytes = {"a", "b", "\xC3", "\xA9", "\xC3\xA9", "\xE2\x82", "\xAC"};
  const std::vector<std::string> characters = {"a", "b", "\xC3\xA9", "\xE2\x82\xAC", "\xEF\xBF\xBD"};
  Case c;
  for (size_t n = 1 + random() % 12; n > 0; --n) {
    std::string token;
    for (size_t i = random() % 4; i > 0; --i) token += bytes[random() % bytes.size()];
    c.tokens.push_back(token);
  }
  for (size_t n = random() % 4; n > 0; --n) {
    std::string stop;
    for (size_t i = 1 + random() % 4; i > 0; --i) stop += characters[random() % characters.size()];
    c.options.stop.push_back(stop);
  }
  c.options.include_stop = random() % 2;
  c.options.min_tokens = random() % 3 == 0 ? random() % 5 : 0;
  return c;
}

// The text of the tokens as a whole, and for each token where its text ends; an unfinished character at the
// end is not text yet.
void WholeText(const std::vector<std::string>& tokens, std::string* text, std::vector<size_t>* ends) {
  Utf8Decoder decoder;
  for (const std::string& token : tokens) {
    decoder.Append(token, text);
    ends->push_back(text->size());
  }
}

TEST(TextStreamTest, AgreesWithSearchingTheWholeText) {
  std::mt19937 random(3);
  int stopped = 0;
  for (int trial = 0; trial < 30'000; ++trial) {
    const Case c = RandomCase(random);
    std::string text;
    std::vector<size_t> ends;
    WholeText(c.tokens, &text, &ends);
    // The first end of a stop string after the text of the first min_tokens tokens, and the longest one
    // there.
    const size_t after = c.options.min_tokens == 0                 ? 0
                         : c.options.min_tokens > int(ends.size()) ? text.size()
                                                                   : ends[c.options.min_tokens - 1];
    std::string stop;
    size_t stop_end = 0;
    for (size_t end = after + 1; end <= text.size() && stop.empty(); ++end) {
      for (const std::string& s : c.options.stop) {
        if (absl::EndsWith(absl::string_view(text).substr(0, end), s) && s.size() > stop.size()) {
          stop = s;
          stop_end = end;
        }
      }
    }
    const Output out = Emit(c.tokens, c.options);
    ASSERT_EQ(out.stop, stop) << trial;
    if (stop.empty()) {
      ASSERT_EQ(out.text.substr(0, text.size()), text) << trial;
      ASSERT_LE(out.text.size(), text.size() + 3) << trial;  // U+FFFD of an unfinished character
    } else {
      ++stopped;
      ASSERT_EQ(out.text, text.substr(0, c.options.include_stop ? stop_end : stop_end - stop.size()))
          << trial;
      ASSERT_GE(ends[out.stop_token], stop_end) << trial;
      if (out.stop_token > 0) {
        ASSERT_LT(ends[out.stop_token - 1], stop_end) << trial;
      }
    }
  }
  EXPECT_GT(stopped, 3000);
}

// Whatever comes later, and wherever the stream is taken up again.
TEST(TextStreamTest, WhatIsEmittedAfterATokenIsAFunctionOfTheTokensUpToIt) {
  std::mt19937 random(4);
  for (int trial = 0; trial < 5'000; ++trial) {
    Case c = RandomCase(random);
    const Output whole = Emit(c.tokens, c.options);
    const size_t cut = random() % c.tokens.size();
    std::vector<std::string> other(c.tokens.begin(), c.tokens.begin() + cut + 1);
    other.insert(other.end(), {"b", "\xA9", "a"});
    const Output with_other_end = Emit(other, c.options);
    for (size_t i = 0; i <= cut && i + 1 < whole.pieces.size(); ++i) {
      ASSERT_EQ(with_other_end.pieces[i], whole.pieces[i]) << trial;
    }
  }
}

// Nothing is held back that could not become a stop string or a character.
TEST(TextStreamTest, HoldsBackNoMoreThanItMust) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 10'000; ++trial) {
    const Case c = RandomCase(random);
    const Output out = Emit(c.tokens, c.options);
    if (!out.stop.empty()) continue;
    std::string text, emitted;
    std::vector<size_t> ends;
    WholeText(c.tokens, &text, &ends);
    for (size_t i = 0; i < c.tokens.size(); ++i) {
      emitted += out.pieces[i];
      const std::string held = text.substr(0, ends[i]).substr(emitted.size());
      if (held.empty()) continue;
      bool begins = false;
      for (const std::string& stop : c.options.stop)
        begins |= stop.size() > held.size() && absl::StartsWith(stop, held);
      ASSERT_TRUE(begins) << trial;
    }
  }
}

}  // namespace
}  // namespace sessa
