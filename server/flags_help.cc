// The command line: parsing, --help, --version.
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/flags.h"
#include "server/version.h"

namespace sessa {
namespace {

constexpr char kUsage[] =
    R"(sessad serves a Sessa language model over gRPC and keeps its sessions' recurrent state.

  sessad                                  the embedded model on 127.0.0.1:50051
  sessad --model=DIR --listen=0.0.0.0:50051
  sessad --flagfile=/etc/sessad.flags     one --flag=value a line

SIGTERM or SIGINT drains (see --drain_timeout); a second one exits at once.
Exit codes: 0 drained; 1 could not start; 2 ended before the drain was over; 3 the device failed.

Flags:)";

bool IsOurs(const absl::CommandLineFlag& flag) { return absl::EndsWith(flag.Filename(), "server/flags.cc"); }

// "  --name=DEFAULT" and the help, wrapped at 100 columns.
void PrintFlag(const absl::CommandLineFlag& flag) {
  std::cout << "\n  --" << flag.Name() << "=" << flag.DefaultValue() << "\n";
  std::string line = "     ";
  for (absl::string_view word : absl::StrSplit(flag.Help(), ' ')) {
    if (line.size() + 1 + word.size() > 100) {
      std::cout << line << "\n";
      line = "     ";
    }
    absl::StrAppend(&line, " ", word);
  }
  std::cout << line << "\n";
}

void PrintHelp() {
  std::cout << kUsage << "\n";
  std::map<std::string, const absl::CommandLineFlag*> ours;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (IsOurs(*flag)) ours[std::string(name)] = flag;
  }
  for (const auto& [name, flag] : ours) PrintFlag(*flag);
}

std::string VersionLine() {
  return absl::StrCat("sessad ", kVersion, " (commit ", kCommit, ", ", kBuildType, ")\n");
}

}  // namespace

void ParseFlags(int argc, char** argv) {
  // Abseil's own --help exits with 1 and lists the flags of every library.
  for (int i = 1; i < argc; ++i) {
    const absl::string_view arg = argv[i];
    if (arg == "--") break;
    if (arg == "--help" || arg == "-help" || arg == "-h") {
      PrintHelp();
      std::exit(0);
    }
  }
  absl::SetProgramUsageMessage("sessad serves a Sessa language model over gRPC; --help lists the flags.");
  absl::FlagsUsageConfig config;
  config.version_string = VersionLine;
  absl::SetFlagsUsageConfig(config);
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  if (rest.size() > 1) {
    std::cerr << "sessad: unexpected argument '" << rest[1]
              << "': flags look like --name=value, see --help\n";
    std::exit(1);
  }
}

}  // namespace sessa
