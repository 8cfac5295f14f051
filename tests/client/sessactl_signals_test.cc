// What Ctrl-C and SIGTERM do to sessactl.
#include <gmock/gmock.h>
#include <pty.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cstdio>

#include "client/rpc_errors.h"
#include "tests/client/sessactl_fixture.h"

namespace sessa {
namespace {

using ::testing::HasSubstr;

class SessactlSignalsTest : public SessactlTest {
 protected:
  // Runs sessactl, which the server makes wait; sends it a SIGINT once `out` has been printed and the turn is
  // there.
  std::string Interrupt(const std::string& arguments, const std::string& out) {
    const std::string command = absl::StrCat(SESSACTL, " ", arguments, " --server=", server_.address(),
                                             " 2>&1 & echo $!; wait $!; echo exit $?");
    FILE* pipe = popen(command.c_str(), "r");
    std::array<char, 256> line;
    EXPECT_NE(fgets(line.data(), line.size(), pipe), nullptr);
    const pid_t pid = std::stoi(line.data());
    server_.WaitForTurns(1);
    std::string text;
    while (text.size() < out.size()) text.push_back(static_cast<char>(fgetc(pipe)));
    EXPECT_EQ(text, out);
    kill(pid, SIGINT);
    for (size_t n; (n = fread(line.data(), 1, line.size(), pipe)) > 0;) text.append(line.data(), n);
    pclose(pipe);
    return text;
  }
};

// Ctrl-C cancels the turn through the server, so that its session stays in order.
TEST_F(SessactlSignalsTest, InterruptCancelsTheTurn) {
  // The first token is printed once the stream runs, and the handler is set before that.
  const std::string out = Interrupt("generate wait", "w0");
  EXPECT_THAT(out, HasSubstr("sessactl: cancelled"));
  EXPECT_THAT(out, HasSubstr(absl::StrCat("exit ", static_cast<int>(kExitCancelled))));
}

// The cancel may come to the server before the turn, and is forgotten there.
TEST_F(SessactlSignalsTest, AnInterruptThatOvertakesTheTurnIsNotLost) {
  const std::string out = Interrupt("generate late --timeout=1m", "");
  EXPECT_THAT(out, HasSubstr(absl::StrCat("exit ", static_cast<int>(kExitCancelled))));
}

TEST_F(SessactlSignalsTest, ASignalAtTheChatPromptLeavesTheTerminalAsItWas) {
  int terminal = -1;
  const std::string server = absl::StrCat("--server=", server_.address());
  const pid_t pid = forkpty(&terminal, nullptr, nullptr, nullptr);
  if (pid == 0) {
    execl(SESSACTL, SESSACTL, "chat", server.c_str(), nullptr);
    _exit(127);
  }
  // The prompt is drawn once the terminal is raw.
  std::string out;
  for (char c; out.find("> ") == std::string::npos && read(terminal, &c, 1) == 1;) out.push_back(c);
  termios mode = {};
  ASSERT_EQ(tcgetattr(terminal, &mode), 0);
  EXPECT_EQ(mode.c_lflag & (ICANON | ECHO), 0u) << out;
  kill(pid, SIGTERM);
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WEXITSTATUS(status), kExitCancelled);
  ASSERT_EQ(tcgetattr(terminal, &mode), 0);
  EXPECT_EQ(mode.c_lflag & (ICANON | ECHO), static_cast<tcflag_t>(ICANON | ECHO));
  close(terminal);
}

}  // namespace
}  // namespace sessa
