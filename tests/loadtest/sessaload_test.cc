// sessaload as a program, against a fake server in this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "client/rpc_errors.h"
#include "tests/client/fake_server.h"
#include "tests/client/run_program.h"

namespace sessa {
namespace {

using ::testing::HasSubstr;

Outcome Load(const std::string& arguments) { return RunInShell(absl::StrCat(SESSALOAD, " ", arguments)); }

TEST(Sessaload, HelpIsNoFailure) {
  const Outcome outcome = Load("--help");
  EXPECT_EQ(outcome.exit_code, kExitOk);
  EXPECT_THAT(outcome.out, HasSubstr("--max_failed"));
  EXPECT_THAT(outcome.out, HasSubstr("Exit codes"));
}

TEST(Sessaload, RefusesWhatItCannotDo) {
  for (const char* arguments :
       {"--generated_tokens=5000000000", "--max_failed=nan", "--warm_up=inf", "--turn_timeout=-1s"}) {
    const Outcome outcome = Load(absl::StrCat("--concurrency=1 ", arguments));
    EXPECT_EQ(outcome.exit_code, kExitUsage) << arguments;
    const std::string text = arguments;
    EXPECT_THAT(outcome.out, HasSubstr(text.substr(0, text.find('=')))) << arguments;
  }
}

TEST(Sessaload, AReportThatIsLostIsAFailure) {
  FakeServer server;
  const std::string load =
      absl::StrCat("--concurrency=1 --max_turns=1 --warm_up=0 --duration=0 --server=", server.address());
  EXPECT_EQ(Load(load).exit_code, kExitOk);
  for (const char* where :
       {" >/dev/full", " --json=/dev/full", " --html=/dev/full", " --html=/no/such/folder"}) {
    const Outcome outcome = Load(load + where);
    EXPECT_EQ(outcome.exit_code, kExitFailed) << where;
    EXPECT_THAT(outcome.out, HasSubstr("cannot write")) << where;
  }
}

}  // namespace
}  // namespace sessa
