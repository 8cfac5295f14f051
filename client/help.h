// The manual pages of sessactl, made from the commands and the flags' own texts.
#pragma once

#include <string>
#include <vector>

#include "client/commands/command.h"

namespace sessa {

std::string ProgramHelp(const std::vector<Command>& commands);
std::string CommandHelp(const Command& command);

// Flags that every command takes.
std::vector<const char*> CommonFlagNames();

// A flag that is on the command line but neither common nor the command's; empty: none. `arguments` without
// the program's name.
std::string UnknownFlag(const Command& command, const std::vector<std::string>& arguments);

}  // namespace sessa
