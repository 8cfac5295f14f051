#include "client/commands/command.h"

#include <algorithm>
#include <iostream>

#include "client/text.h"

namespace sessa {

std::vector<const char*> SamplingFlagNames() {
  return {"max_tokens",
          "min_tokens",
          "temperature",
          "top_k",
          "top_p",
          "min_p",
          "repetition_penalty",
          "presence_penalty",
          "frequency_penalty",
          "seed",
          "stop",
          "stop_token_ids",
          "ignore_eos",
          "logit_bias",
          "allowed_token_ids",
          "include_stop",
          "skip_special_tokens"};
}

int Fail(const CommandContext& context, const absl::Status& status) {
  std::cout << std::flush;
  if (context.json) {
    std::cout << "{\"error\":" << ErrorToJson(status) << "}" << std::endl;
  } else {
    std::cerr << "sessactl: " << DescribeError(status, context.client->server()) << std::endl;
  }
  return ExitCodeOf(status);
}

int FailUsage(const CommandContext& context, absl::string_view problem) {
  Fail(context, absl::InvalidArgumentError(problem));
  return kExitUsage;
}

void Table::Row(absl::string_view name, absl::string_view value) {
  rows_.emplace_back(std::string(name), TerminalText(value));
}

void Table::Print() const {
  size_t width = 0;
  for (const auto& [name, value] : rows_) width = std::max(width, name.size());
  for (const auto& [name, value] : rows_) {
    std::cout << name << std::string(width - name.size() + 2, ' ') << value << "\n";
  }
  std::cout << std::flush;
}

}  // namespace sessa
