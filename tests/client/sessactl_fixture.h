// Runs sessactl as a program, against a fake server in this process.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/client/fake_server.h"
#include "tests/client/run_program.h"

namespace sessa {

class SessactlTest : public ::testing::Test {
 protected:
  // `arguments` may redirect; `input` is what printf of the shell takes.
  Outcome Run(const std::string& arguments, const std::string& input = "") {
    return RunInShell(absl::StrCat("printf '", input, "' | ", SESSACTL, " ", arguments));
  }
  Outcome RunHere(const std::string& arguments, const std::string& input = "") {
    return Run(absl::StrCat(arguments, " --server=", server_.address()), input);
  }
  FakeServer server_;
};

}  // namespace sessa
