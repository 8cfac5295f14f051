// Runs sessactl as a program, against a fake server in this process.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/client/fake_server.h"

namespace sessa {

struct Outcome {
  int exit_code;
  std::string out;  // standard output and standard error
};

class SessactlTest : public ::testing::Test {
 protected:
  // `arguments` may redirect; `input` is what printf of the shell takes.
  Outcome Run(const std::string& arguments, const std::string& input = "") {
    const std::string command =
        absl::StrCat("printf '", input, "' | { ", SESSACTL, " ", arguments, "; } 2>&1");
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

}  // namespace sessa
