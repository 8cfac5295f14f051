// sessactl as a program: output, exit codes and help, against a fake server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/commands/status_view.h"
#include "client/rpc_errors.h"
#include "tests/client/sessactl_fixture.h"
#include "tests/temp_folder.h"

namespace sessa {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

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

TEST_F(SessactlTest, AnEmptyPromptIsAPromptAndLeavesStandardInputAlone) {
  RunHere("generate --session=s --max_tokens=1 ''", "not the prompt\\n");
  EXPECT_EQ(server_.requests().at(0).text(), "");
  RunHere("generate --max_tokens=1", "the prompt\\n");
  EXPECT_EQ(server_.requests().at(1).text(), "the prompt\n");
}

TEST_F(SessactlTest, WhatCannotBeReadIsNoPrompt) {
  for (const char* arguments :
       {"generate --prompt_file=/", "generate </", "tokenize --prompt_file=/no/such/file"}) {
    const Outcome outcome = RunHere(arguments);
    EXPECT_EQ(outcome.exit_code, kExitInvalid) << arguments;
    EXPECT_THAT(outcome.out, HasSubstr("cannot read")) << arguments;
  }
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(SessactlTest, SamplesAreShownOneAfterTheOther) {
  EXPECT_EQ(RunHere("generate hello --n=2 --max_tokens=1").out, "--- sample 0\nw0 \n--- sample 1\nw0 \n");
  EXPECT_EQ(RunHere("generate hello --n=0 --max_tokens=1").out, "w0 \n") << "0 is 1";
}

TEST_F(SessactlTest, AWrongNumberOfSamplesIsTheServersToRefuse) {
  for (const char* n : {"-1", "17", "1000000000"}) {
    const Outcome outcome = RunHere(absl::StrCat("generate hello --n=", n));
    EXPECT_EQ(outcome.exit_code, kExitInvalid) << n;
    EXPECT_THAT(outcome.out, HasSubstr("field sampling.n")) << n;
  }
}

TEST_F(SessactlTest, TextThatIsNotUtf8IsSaidByPlace) {
  for (const auto& [arguments, problem] : std::vector<std::pair<std::string, std::string>>{
           {"generate", "text: not UTF-8 at byte 3"},
           {"tokenize --prompt_file=-", "text: not UTF-8 at byte 3"},
           {"chat", "text: not UTF-8"},
           {"generate a --stop='b,\\xFF'", "sampling.stop[1]: not UTF-8 at byte 0"},
           {"score a b $(printf '\\377')", "choices[1].text: not UTF-8 at byte 0"},
           {"sessions show $(printf '\\377')", "session_id: not UTF-8 at byte 0"}}) {
    const Outcome outcome = RunHere(arguments, "abc\\377\\n");
    EXPECT_EQ(outcome.exit_code, kExitInvalid) << arguments;
    EXPECT_THAT(outcome.out, HasSubstr(problem)) << arguments;
    EXPECT_THAT(outcome.out, Not(HasSubstr("libprotobuf"))) << arguments;
  }
}

TEST_F(SessactlTest, ScoreTakesItsPromptFromOnePlaceAndTheRestAsChoices) {
  const TempFolder folder;
  const std::string file = folder.path() + "/prompt";
  std::ofstream(file) << "from a file";
  for (const auto& [arguments, prompt] : std::vector<std::pair<std::string, std::string>>{
           {"score hello yes no", "hello"},
           {absl::StrCat("score yes no --prompt_file=", file), "from a file"},
           {"score yes no --token_ids=1,7", ""},
           {"score '' yes no", ""}}) {
    const Outcome outcome = RunHere(arguments, "not the prompt");
    EXPECT_EQ(outcome.exit_code, 0) << arguments << outcome.out;
    const v1::ScoreRequest request = server_.scores().back();
    EXPECT_EQ(request.text(), prompt) << arguments;
    EXPECT_EQ(request.token_ids().ids_size(), arguments.find("--token_ids") == std::string::npos ? 0 : 2);
    ASSERT_EQ(request.choices_size(), 2) << arguments;
    EXPECT_EQ(request.choices(0).text(), "yes") << arguments;
  }
  RunHere("score", "piped");
  EXPECT_EQ(server_.scores().back().text(), "piped");
}

TEST_F(SessactlTest, OutputThatIsLostIsAFailure) {
  for (const char* arguments : {"model >/dev/full", "generate hello --max_tokens=1 >/dev/full",
                                "top --once --json >/dev/full", "--help >/dev/full"}) {
    const Outcome outcome = RunHere(arguments);
    EXPECT_EQ(outcome.exit_code, kExitFailed) << arguments;
    EXPECT_THAT(outcome.out, HasSubstr("cannot write standard output")) << arguments;
  }
  EXPECT_EQ(RunHere("generate error:queue --json >/dev/full").exit_code, kExitUnavailable)
      << "what went wrong before says more";
}

TEST_F(SessactlTest, TopEndsWhenItsOutputIsLost) {
  EXPECT_EQ(RunHere("top --json >/dev/full").exit_code, kExitFailed);
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
                                                        {"drain --drain_timeout=-5s", "--drain_timeout"},
                                                        {"sessions list --limit=-3", "--limit"},
                                                        {"sessions rewind s", "--position"},
                                                        {"chat --question='\\q'", "--question"},
                                                        {"generate --no_such_flag", "no_such_flag"}}) {
    const Outcome outcome = RunHere(arguments);
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
  EXPECT_THAT(Run("chat --help").out, HasSubstr("(default Q: {}\\nA:)")) << "as it would be written";
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
