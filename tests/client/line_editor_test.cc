#include "client/line_editor.h"

#include <gtest/gtest.h>

namespace sessa {
namespace {

using Event = LineBuffer::Event;

// Feeds all bytes; the last one's event.
Event Type(LineBuffer* line, const std::string& bytes) {
  Event event = Event::kNone;
  for (char byte : bytes) event = line->Feed(byte);
  return event;
}

TEST(LineBuffer, TakesCharactersUntilReturn) {
  LineBuffer line;
  EXPECT_EQ(Type(&line, "Zoë"), Event::kChanged);
  EXPECT_EQ(line.text(), "Zoë");
  EXPECT_EQ(Type(&line, "\r"), Event::kLine);
}

TEST(LineBuffer, ErasesWholeCharacters) {
  LineBuffer line;
  Type(&line, "aë\x7F");
  EXPECT_EQ(line.text(), "a");
  Type(&line, "ë\x1B[D\x1B[3~");
  EXPECT_EQ(line.text(), "a") << "left, then delete";
}

TEST(LineBuffer, MovesAndInserts) {
  LineBuffer line;
  Type(&line,
       "bc\x01"
       "a");
  EXPECT_EQ(line.text(), "abc") << "Ctrl-A";
  Type(&line,
       "\x1B[F"
       "d");
  EXPECT_EQ(line.text(), "abcd") << "End";
  Type(&line, "\x1B[H\x1B[C\x0B");
  EXPECT_EQ(line.text(), "a") << "Home, right, Ctrl-K";
}

TEST(LineBuffer, ErasesWords) {
  LineBuffer line;
  Type(&line, "one two  \x17");
  EXPECT_EQ(line.text(), "one ");
  Type(&line, "\x15");
  EXPECT_EQ(line.text(), "");
}

TEST(LineBuffer, RecallsHistoryAndKeepsTheDraft) {
  LineBuffer line;
  line.AddHistory("first");
  line.AddHistory("second");
  line.AddHistory("second");
  line.Clear();
  Type(&line, "draft\x1B[A");
  EXPECT_EQ(line.text(), "second");
  Type(&line, "\x1B[A");
  EXPECT_EQ(line.text(), "first");
  EXPECT_EQ(Type(&line, "\x1B[A"), Event::kNone) << "nothing older";
  Type(&line, "\x1B[B\x1B[B");
  EXPECT_EQ(line.text(), "draft");
}

TEST(LineBuffer, TellsCancelFromEnd) {
  LineBuffer line;
  EXPECT_EQ(Type(&line, "\x04"), Event::kEnd);
  Type(&line, "ab\x01");
  EXPECT_EQ(Type(&line, "\x04"), Event::kChanged) << "deletes under the cursor while there is text";
  EXPECT_EQ(line.text(), "b");
  EXPECT_EQ(Type(&line, "\x03"), Event::kCancelled);
}

TEST(LineBuffer, IgnoresUnknownSequences) {
  LineBuffer line;
  Type(&line,
       "a\x1B[15~\x1Bx\x02"
       "b");
  EXPECT_EQ(line.text(), "ab");
}

}  // namespace
}  // namespace sessa
