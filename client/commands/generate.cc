#include <iostream>

#include "absl/flags/flag.h"
#include "client/commands/turn.h"
#include "client/flags.h"
#include "client/text.h"

namespace sessa {
namespace {

void PrintEnd(const CommandContext& context, const v1::GenerateRequest& request, const TurnPrinter& printer,
              const v1::Finished& finished) {
  if (context.json) return;  // the events say it all
  const std::string reason = DescribeReason(printer.reason());
  if (!reason.empty()) std::cerr << "sessactl: " << reason << std::endl;
  if (absl::GetFlag(FLAGS_stats)) std::cerr << DescribeTurn(finished) << std::endl;
  if (request.keep_session() && request.session_id().empty()) {
    const std::string& id = printer.started().session_id();
    std::cerr << "session " << id << " (go on with --session=" << id << ")" << std::endl;
  }
}

int Generate(const CommandContext& context) {
  auto request = GenerateRequestFromFlags();
  if (!request.ok()) return Fail(context, request.status());
  auto prompt = PromptFromFlags(context.args);
  if (!prompt.ok()) return Fail(context, prompt.status());
  if (prompt->is_ids) {
    *request->mutable_token_ids() = prompt->ids;
  } else if (!prompt->text.empty()) {
    request->set_text(prompt->text);
  }
  TurnPrinter printer(context.json, /*live=*/request->sampling().n() <= 1);
  const auto finished = RunTurn(context, *request, &printer);
  if (!finished.ok()) return Fail(context, finished.status());
  PrintEnd(context, *request, printer, *finished);
  return ExitCodeOf(printer.reason());
}

}  // namespace

std::vector<Command> GenerateCommands() {
  std::vector<const char*> flags = {"session",    "keep",     "prompt_file",       "token_ids",
                                    "stats",      "logprobs", "prompt_logprobs",   "n",
                                    "request_id", "priority", "expected_position", "on_disconnect"};
  for (const char* flag : SamplingFlagNames()) flags.push_back(flag);
  return {{"generate", "[PROMPT]", "complete a prompt, streaming the text",
           "Appends PROMPT to a session (a new one without --session) and prints what the model says, as it "
           "comes.\n"
           "The prompt is taken as it stands: end it without a newline if the model should continue the "
           "line. Without\n"
           "PROMPT it is read from standard input if that is a file or pipe; an empty prompt ('') continues "
           "--session.\n"
           "Ctrl-C cancels the turn; the session keeps what was printed. Characters that steer terminals are "
           "shown as\n"
           "a replacement character; --json gives the exact text.",
           "sessactl generate 'Mia went to the kitchen.' --temperature=0 --max_tokens=20\n"
           "sessactl generate --keep --max_tokens=0 'Tom picked up the lamp.'\n"
           "sessactl generate --session=ID $'\\nQ: Where is the lamp?\\nA:' --temperature=0 --stop='\\n'",
           flags, 0, -1, &Generate}};
}

}  // namespace sessa
