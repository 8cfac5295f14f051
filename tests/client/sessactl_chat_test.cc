// sessactl chat, its lines from a pipe.
#include <gmock/gmock.h>

#include <array>

#include "client/rpc_errors.h"
#include "tests/client/sessactl_fixture.h"

namespace sessa {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class SessactlChatTest : public SessactlTest {};

TEST_F(SessactlChatTest, AsksAndTellsInOneSession) {
  const Outcome outcome = RunHere("chat --max_tokens=2", "Tom is in.\\nWhere is Tom?\\n");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out;
  const auto requests = server_.requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[0].text(), "Tom is in.\n");
  EXPECT_EQ(requests[0].sampling().max_tokens(), 0) << "told, not asked";
  EXPECT_EQ(requests[1].text(), "Q: Where is Tom?\nA:");
  EXPECT_EQ(requests[1].session_id(), "session1");
  EXPECT_EQ(requests[1].sampling().temperature(), 0);
  EXPECT_THAT(outcome.out, HasSubstr("w0 w1 "));
  EXPECT_THAT(outcome.out, HasSubstr("chat --session=session1"));
}

TEST_F(SessactlChatTest, TheFormsTakeEscapes) {
  RunHere("chat --statement= --question='<{}>\\n\\x41' --max_tokens=1", "hello\\n");
  EXPECT_EQ(server_.requests().at(0).text(), "<hello>\nA");
}

// A turn begins a line: the model's answer may have ended one or not.
TEST_F(SessactlChatTest, TheNextTurnBeginsALine) {
  for (const auto& [flags, first, second] : std::vector<std::array<std::string, 3>>{
           {"", "halt?", "Q: and?\nA:"},              // the newline that stopped the answer is in the session
           {"--stop=END", "halt?", "\nQ: and?\nA:"},  // END is
           {"--stop_token_ids=7", "what?", "\nQ: and?\nA:"},
           {"--max_tokens=0", "what?", "\nQ: and?\nA:"}}) {  // "A:" is the end
    const size_t before = server_.requests().size();
    RunHere("chat --max_tokens=1 " + flags, first + "\\nand?\\n");
    ASSERT_EQ(server_.requests().size(), before + 2) << flags;
    EXPECT_EQ(server_.requests().back().text(), second) << flags;
  }
}

TEST_F(SessactlChatTest, TellsTheSessionAsTheServerKnowsIt) {
  EXPECT_THAT(RunHere("chat", "/session\\n").out, HasSubstr("none yet"));
  RunHere("generate hello --keep --max_tokens=2");
  const Outcome back = RunHere("chat --session=session1", "/session\\n/new\\n/session\\n");
  EXPECT_THAT(back.out, HasSubstr("session1, position 7\n"));
  EXPECT_THAT(back.out, HasSubstr("come back with sessactl chat --session=session1")) << "/new leaves it";
  EXPECT_THAT(back.out, HasSubstr("none yet\n"));
  const Outcome gone = RunHere("chat --session=nobody", "/session\\n");
  EXPECT_EQ(gone.exit_code, kExitInvalid);
  EXPECT_THAT(gone.out, HasSubstr("SESSION_NOT_FOUND"));
}

TEST_F(SessactlChatTest, AFailedLineOfAPipeIsNotForgotten) {
  EXPECT_EQ(RunHere("chat --max_tokens=1", "error:field\\nhello.\\n").exit_code, kExitInvalid);
  EXPECT_EQ(server_.requests().size(), 2u) << "the next line is told nevertheless";
}

}  // namespace
}  // namespace sessa
