// A subcommand of sessactl.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/client.h"
#include "client/interrupts.h"
#include "client/rpc_errors.h"

namespace sessa {

// What a command works with.
struct CommandContext {
  Client* client;
  Interrupts* interrupts;
  std::vector<std::string> args;  // after the command's name, flags removed
  bool json = false;
};

// Everything about a command; its manual page is made from this.
struct Command {
  const char* name;                           // "generate", "sessions list"
  const char* arguments;                      // "[PROMPT]"
  const char* summary;                        // one line
  const char* description;                    // paragraphs
  const char* examples;                       // one a line
  std::vector<const char*> flags;             // beside the common ones; main refuses others
  int min_args, max_args;                     // -1: any number
  int (*run)(const CommandContext& context);  // returns the exit code
};

// The commands, in the order in which help lists them.
std::vector<Command> GenerateCommands();
std::vector<Command> ChatCommands();
std::vector<Command> ScoreCommands();
std::vector<Command> TokenCommands();
std::vector<Command> SessionCommands();
std::vector<Command> TransferCommands();
std::vector<Command> ServerCommands();
std::vector<Command> TopCommands();

// The flags that say how to sample.
std::vector<const char*> SamplingFlagNames();

// Prints an error where the context wants it (standard error, or standard output as JSON); returns its exit
// code.
int Fail(const CommandContext& context, const absl::Status& status);

// The same for what is wrong with the command line, not with what the server was asked; returns kExitUsage.
int FailUsage(const CommandContext& context, absl::string_view problem);

// Name and value in two columns, for things with many fields.
class Table {
 public:
  void Row(absl::string_view name, absl::string_view value);
  void Print() const;  // to standard output, sanitised

 private:
  std::vector<std::pair<std::string, std::string>> rows_;
};

}  // namespace sessa
