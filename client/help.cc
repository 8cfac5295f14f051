#include "client/help.h"

#include <algorithm>

#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/flag_help.h"

namespace sessa {
namespace {

constexpr char kExitCodes[] =
    "Exit codes\n"
    "  0  done\n"
    "  1  wrong usage of this program\n"
    "  2  the daemon is not reachable, not serving, or refuses for load: try again later\n"
    "  3  the request is at fault: invalid, unknown session, session busy, precondition\n"
    "  4  cancelled\n"
    "  5  deadline exceeded\n"
    "  6  the daemon does not have this feature yet\n"
    "  7  anything else\n";

std::string Indented(absl::string_view text) {
  std::string out;
  for (absl::string_view line : absl::StrSplit(text, '\n')) absl::StrAppend(&out, "  ", line, "\n");
  return out;
}

bool Contains(const std::vector<const char*>& names, absl::string_view name) {
  return std::any_of(names.begin(), names.end(), [name](const char* n) { return name == n; });
}

}  // namespace

std::vector<const char*> CommonFlagNames() { return {"server", "json", "timeout", "flagfile"}; }

std::string ProgramHelp(const std::vector<Command>& commands) {
  std::string help =
      "sessactl talks to sessad, the daemon that serves Sessa models.\n\n"
      "Usage: sessactl COMMAND [ARGUMENT]... [--FLAG=VALUE]...\n"
      "       sessactl COMMAND --help\n\nCommands\n";
  for (const Command& command : commands)
    absl::StrAppendFormat(&help, "  %-17s %s\n", command.name, command.summary);
  absl::StrAppend(&help, "\nFlags of every command\n");
  for (const char* name : CommonFlagNames()) absl::StrAppend(&help, FlagHelp(name));
  absl::StrAppend(&help, "  --version               print the version of this program\n\n", kExitCodes);
  return help;
}

std::string CommandHelp(const Command& command) {
  std::string help =
      absl::StrCat("sessactl ", command.name, ": ", command.summary, "\n\nUsage: sessactl ", command.name,
                   *command.arguments == '\0' ? "" : " ", command.arguments, " [--FLAG=VALUE]...\n");
  if (*command.description != '\0') absl::StrAppend(&help, "\n", command.description, "\n");
  absl::StrAppend(&help, "\nExamples\n", Indented(command.examples), "\nFlags\n");
  for (const char* name : command.flags) absl::StrAppend(&help, FlagHelp(name));
  for (const char* name : CommonFlagNames()) absl::StrAppend(&help, FlagHelp(name));
  return absl::StrCat(help, "\n", kExitCodes);
}

std::string UnknownFlag(const Command& command, const std::vector<std::string>& arguments) {
  for (absl::string_view argument : arguments) {
    if (argument == "--") break;
    if (argument.size() < 2 || argument[0] != '-') continue;
    argument.remove_prefix(argument[1] == '-' ? 2 : 1);
    const absl::string_view name = argument.substr(0, argument.find('='));
    const bool taken = Contains(command.flags, name) || Contains(CommonFlagNames(), name);
    const bool negated = absl::StartsWith(name, "no") && Contains(command.flags, name.substr(2));
    // Values of "--flag value" cannot be told from flags here; only names that are flags of ours count.
    if (!taken && !negated && absl::FindCommandLineFlag(name) != nullptr) return std::string(name);
  }
  return "";
}

}  // namespace sessa
