// sessactl: what a person or a script asks of a running sessad. `sessactl --help` is the manual.
#include <signal.h>

#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/command.h"
#include "client/flag_help.h"
#include "client/flags.h"
#include "client/help.h"

namespace sessa {
namespace {

std::vector<Command> AllCommands() {
  std::vector<Command> all;
  for (auto* family : {&GenerateCommands, &ChatCommands, &ScoreCommands, &TokenCommands, &SessionCommands,
                       &TransferCommands, &ServerCommands, &TopCommands}) {
    for (Command& command : family()) all.push_back(std::move(command));
  }
  return all;
}

// The command that the words begin with, and how many words name it.
const Command* Find(const std::vector<Command>& commands, const std::vector<std::string>& words,
                    size_t* used) {
  for (size_t count : {2, 1}) {
    if (words.size() < count) continue;
    const std::string name = absl::StrJoin(words.begin(), words.begin() + count, " ");
    for (const Command& command : commands) {
      if (name == command.name) {
        *used = count;
        return &command;
      }
    }
  }
  return nullptr;
}

// "no command 'x'", and what begins like it.
std::string NoCommand(const std::vector<Command>& commands, const std::string& word) {
  std::vector<std::string> family;
  for (const Command& command : commands) {
    if (absl::StartsWith(command.name, word + " ")) family.push_back(command.name);
  }
  if (family.empty()) return absl::StrCat("no command '", word, "'; sessactl --help lists them");
  return absl::StrCat("'", word, "' needs a second word: ", absl::StrJoin(family, ", "));
}

int Usage(const std::string& problem) {
  std::cerr << "sessactl: " << problem << std::endl;
  return kExitUsage;
}

// Words that are no flags, for finding the command before the flags are parsed.
std::vector<std::string> Words(const std::vector<std::string>& arguments) {
  std::vector<std::string> words;
  for (const std::string& argument : arguments) {
    if (argument == "--") break;
    if (argument.empty() || argument[0] != '-') words.push_back(argument);
  }
  return words;
}

int Main(int argc, char** argv) {
  const std::vector<Command> commands = AllCommands();
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const std::vector<std::string> words = Words(arguments);
  size_t used = 0;
  const Command* command = Find(commands, words, &used);
  if (command == nullptr && !arguments.empty() && arguments[0] == "help") {
    command = Find(commands, {words.begin() + 1, words.end()}, &used);
    std::cout << (command == nullptr ? ProgramHelp(commands) : CommandHelp(*command));
    return kExitOk;
  }
  if (WantsHelp(argc, argv)) {
    std::cout << (command == nullptr ? ProgramHelp(commands) : CommandHelp(*command));
    return kExitOk;
  }
  if (arguments.size() == 1 && arguments[0] == "--version") {
    std::cout << "sessactl " << SESSA_VERSION << "\n";
    return kExitOk;
  }
  if (command == nullptr) {
    if (words.empty()) {
      std::cerr << ProgramHelp(commands);
      return kExitUsage;
    }
    return Usage(NoCommand(commands, words[0]));
  }

  const std::vector<char*> rest =
      absl::ParseCommandLine(argc, argv);  // exits with 1 on a flag that it cannot parse
  std::vector<std::string> args(rest.begin() + 1, rest.end());
  if (Find(commands, args, &used) != command) {
    return Usage(absl::StrCat("write the command first: sessactl ", command->name, " ..."));
  }
  args.erase(args.begin(), args.begin() + used);
  const std::string unknown = UnknownFlag(*command, arguments);
  const std::string see = absl::StrCat("; see sessactl ", command->name, " --help");
  if (!unknown.empty()) return Usage(absl::StrCat("--", unknown, " does not apply to ", command->name, see));
  if (args.size() < command->min_args) return Usage(absl::StrCat("missing ", command->arguments, see));
  if (command->max_args >= 0 && args.size() > command->max_args) {
    return Usage(absl::StrCat("unexpected argument '", args[command->max_args], "'", see));
  }

  signal(SIGPIPE, SIG_DFL);
  Interrupts interrupts;
  Client client({.server = absl::GetFlag(FLAGS_server)});
  return command->run(
      {.client = &client, .interrupts = &interrupts, .args = args, .json = absl::GetFlag(FLAGS_json)});
}

}  // namespace
}  // namespace sessa

int main(int argc, char** argv) {
  const int code = sessa::Main(argc, argv);
  if (std::cout.flush()) return code;
  std::cerr << "sessactl: cannot write standard output" << std::endl;
  return code == sessa::kExitOk ? sessa::kExitFailed : code;
}
