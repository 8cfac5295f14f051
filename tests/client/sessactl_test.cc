// sessactl as a program: output, exit codes and help, against a fake server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/commands/status_view.h"
#include "client/rpc_errors.h"
#include "tests/client/fake_server.h"
#include "tests/temp_folder.h"

namespace sessa {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

struct Outcome {
  int exit_code;
  std::string out;  // standard output and standard error
};

class SessactlTest : public ::testing::Test {
 protected:
  Outcome Run(const std::string& arguments, const std::string& input = "") {
    const std::string command = absl::StrCat("printf '", input, "' | ", SESSACTL, " ", arguments, " 2>&1");
    FILE* pipe = popen(command.c_str(), "r");
    Outcome outcome{-1, ""};
    std::array<char, 4096> buffer;
    for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
      outcome.out.append(buffer.data(), n);
    const int status = pclose(pipe);
    outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return outcome;
  }
  Outcome RunHere(const std::string& arguments, const std::string& input = "") {
    return Run(absl::StrCat(arguments, " --server=", server_.address()), input);
  }
  FakeServer server_;
};

TEST_F(SessactlTest, GeneratePrintsTheText) {
  const Outcome outcome =
      RunHere("generate hello there --max_tokens=2 --temperature=0 --stop='\\n,User:' --top_k=5");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, "w0 w1 \n");
  const v1::GenerateRequest request = server_.requests().at(0);
  EXPECT_EQ(request.text(), "hello there");
  EXPECT_TRUE(request.sampling().has_temperature());
  EXPECT_THAT(request.sampling().stop(), ::testing::ElementsAre("\n", "User:"));
  EXPECT_EQ(request.sampling().top_k(), 5);
  EXPECT_FALSE(request.sampling().has_top_p()) << "flags that were not given stay unset";
  EXPECT_FALSE(request.request_id().empty());
}

TEST_F(SessactlTest, GenerateReadsItsPromptFromAPipe) {
  EXPECT_EQ(RunHere("generate --max_tokens=1", "a line\\n").out, "w0 \n");
  EXPECT_EQ(server_.requests().at(0).text(), "a line\n") << "as it stands";
}

TEST_F(SessactlTest, GenerateTakesIds) {
  RunHere("generate --token_ids=1,7,9 --max_tokens=0 --keep");
  EXPECT_THAT(server_.requests().at(0).token_ids().ids(), ::testing::ElementsAre(1, 7, 9));
}

TEST_F(SessactlTest, AKeptSessionIsNamed) {
  EXPECT_THAT(RunHere("generate hello --keep --max_tokens=1").out, HasSubstr("--session=session1"));
}

TEST_F(SessactlTest, JsonIsOneLineAnEvent) {
  const Outcome outcome = RunHere("generate hello --max_tokens=1 --json");
  const std::vector<std::string> lines = absl::StrSplit(outcome.out, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 4u) << outcome.out;
  EXPECT_THAT(lines[0], StartsWith("{\"started\":{"));
  EXPECT_THAT(lines[3], StartsWith("{\"finished\":{"));
}

TEST_F(SessactlTest, ExitCodesTellWhatWentWrong) {
  EXPECT_EQ(RunHere("generate error:queue").exit_code, kExitUnavailable);
  EXPECT_EQ(RunHere("generate error:field").exit_code, kExitInvalid);
  EXPECT_EQ(RunHere("tokenize hello").exit_code, kExitUnimplemented);
  EXPECT_EQ(RunHere("generate wait --timeout=100ms").exit_code, kExitDeadline);
  EXPECT_EQ(Run("model --server=127.0.0.1:1").exit_code, kExitUnavailable);
}

TEST_F(SessactlTest, ErrorsAsJson) {
  EXPECT_THAT(RunHere("generate error:queue --json").out,
              HasSubstr("{\"error\":{\"code\":\"RESOURCE_EXHAUSTED\""));
}

TEST_F(SessactlTest, UsageErrorsSayWhatIsWrong) {
  for (const auto& [arguments, problem] :
       std::vector<std::pair<std::string, std::string>>{{"frobnicate", "no command 'frobnicate'"},
                                                        {"model --stop=x", "--stop does not apply to model"},
                                                        {"sessions show", "missing ID"},
                                                        {"model extra", "unexpected argument 'extra'"},
                                                        {"sessions", "sessions list"},
                                                        {"generate --no_such_flag", "no_such_flag"}}) {
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, kExitUsage) << arguments;
    EXPECT_THAT(outcome.out, HasSubstr(problem)) << arguments;
  }
}

TEST_F(SessactlTest, EveryCommandHasAManual) {
  const std::string help = Run("--help").out;
  for (const char* command :
       {"generate", "chat", "score", "tokenize", "detokenize", "sessions list", "sessions show",
        "sessions create", "sessions fork", "sessions rewind", "sessions delete", "sessions export",
        "sessions import", "model", "status", "drain", "top"}) {
    EXPECT_THAT(help, HasSubstr(command));
    const Outcome manual = Run(absl::StrCat(command, " --help"));
    EXPECT_EQ(manual.exit_code, 0) << command;
    EXPECT_THAT(manual.out, HasSubstr(absl::StrCat("Usage: sessactl ", command)));
    EXPECT_THAT(manual.out, HasSubstr("Exit codes"));
  }
}

TEST_F(SessactlTest, ChatAsksAndTellsInOneSession) {
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

TEST_F(SessactlTest, SessionsListAndDelete) {
  RunHere("generate hello --keep --max_tokens=1");
  EXPECT_THAT(RunHere("sessions list").out, HasSubstr("session1"));
  EXPECT_EQ(RunHere("sessions delete session1").exit_code, 0);
  const Outcome again = RunHere("sessions delete session1");
  EXPECT_EQ(again.exit_code, kExitInvalid);
  EXPECT_THAT(again.out, HasSubstr("SESSION_NOT_FOUND"));
}

TEST_F(SessactlTest, ASessionTravelsThroughAFile) {
  const TempFolder folder;
  const std::string file = folder.path() + "/exported.session";
  EXPECT_THAT(RunHere("sessions export s " + file).out, HasSubstr("3 tokens"));
  EXPECT_EQ(RunHere("sessions import " + file).out, "imported\n");
  std::ofstream(file, std::ios::binary | std::ios::trunc) << "\xFFgarbage";
  const Outcome outcome = RunHere("sessions import " + file);
  EXPECT_EQ(outcome.exit_code, kExitInvalid);
  EXPECT_THAT(outcome.out, HasSubstr("not an exported session"));
}

TEST_F(SessactlTest, TopOncePrintsWithoutEscapes) {
  const Outcome outcome = RunHere("top --once");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.out, HasSubstr("serving"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("\x1B")));
}

// Ctrl-C cancels the turn through the server, so that its session stays in order.
TEST_F(SessactlTest, InterruptCancelsTheTurn) {
  const std::string command = absl::StrCat(SESSACTL, " generate wait --server=", server_.address(),
                                           " 2>&1 & echo $!; wait $!; echo exit $?");
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 256> line;
  ASSERT_NE(fgets(line.data(), line.size(), pipe), nullptr);
  const pid_t pid = std::stoi(line.data());
  server_.WaitForTurns(1);
  // The first token is printed once the stream runs, and the handler is set before that.
  std::string out;
  for (int c; (c = fgetc(pipe)) != EOF && c != ' ';) out.push_back(static_cast<char>(c));
  EXPECT_EQ(out, "w0");
  kill(pid, SIGINT);
  for (size_t n; (n = fread(line.data(), 1, line.size(), pipe)) > 0;) out.append(line.data(), n);
  pclose(pipe);
  EXPECT_THAT(out, HasSubstr("sessactl: cancelled"));
  EXPECT_THAT(out, HasSubstr(absl::StrCat("exit ", static_cast<int>(kExitCancelled))));
}

TEST(StatusView, GaugesAndBars) {
  EXPECT_EQ(Gauge(0.5, 4), "[##..]");
  EXPECT_EQ(Gauge(2, 4), "[####]");
  EXPECT_EQ(Bars({0, 4, 8}), "▁▅█");
  EXPECT_EQ(Bars({0, 0}), "▁▁");
}

TEST(StatusView, SaysWhyItDoesNotServe) {
  v1::ServerStatus status;
  status.set_not_serving_reason("draining");
  EXPECT_THAT(StatusScreen(status, {}), HasSubstr("NOT SERVING: draining"));
}

}  // namespace
}  // namespace sessa
