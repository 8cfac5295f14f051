// A flag in a manual page.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace sessa {

// "  --name  text (default value)" with a newline, broken at spaces before column 110. Empty: no such flag.
std::string FlagHelp(absl::string_view name);

// True for --help, -help and -h, which Abseil would answer with every library's flags and exit code 1.
// `arguments` as in main.
bool WantsHelp(int argc, char** argv);

}  // namespace sessa
