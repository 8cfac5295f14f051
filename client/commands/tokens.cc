#include <iostream>

#include "absl/flags/flag.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/commands/command.h"
#include "client/flags.h"
#include "client/json.h"
#include "client/text.h"

ABSL_FLAG(bool, pieces, false, "one line a token: its id and the bytes that it stands for");
ABSL_DECLARE_FLAG(bool, skip_special_tokens);

namespace sessa {
namespace {

int Tokenize(const CommandContext& context) {
  const auto prompt = PromptFromFlags(context.args);
  if (!prompt.ok()) return Fail(context, prompt.status());
  v1::TokenizeRequest request;
  request.set_text(prompt->text);
  request.set_with_pieces(context.json || absl::GetFlag(FLAGS_pieces));
  const auto response = context.client->Tokenize(request, QuickCall());
  if (!response.ok()) return Fail(context, response.status());
  if (context.json) {
    std::cout << ToJson(*response, JsonStyle::kIndented);
  } else if (!request.with_pieces()) {
    std::cout << absl::StrJoin(response->token_ids(), " ") << "\n";
  } else {
    for (int i = 0; i < response->token_ids_size(); ++i) {
      const std::string piece = i < response->pieces_size() ? response->pieces(i) : std::string();
      // A part of a character, as byte fallback gives it, is shown by its bytes.
      const bool whole = TerminalText(piece) == piece;
      std::cout << absl::StreamFormat("%6d  \"%s\"\n", response->token_ids(i),
                                      whole ? absl::Utf8SafeCEscape(piece) : absl::CHexEscape(piece));
    }
  }
  std::cout << std::flush;
  return kExitOk;
}

int Detokenize(const CommandContext& context) {
  const auto ids = ParseIds(absl::StrJoin(context.args, " "));
  if (!ids.ok()) return Fail(context, ids.status());
  v1::DetokenizeRequest request;
  request.mutable_token_ids()->Add(ids->begin(), ids->end());
  if (!absl::GetFlag(FLAGS_skip_special_tokens)) request.set_skip_special_tokens(false);
  const auto response = context.client->Detokenize(request, QuickCall());
  if (!response.ok()) return Fail(context, response.status());
  std::cout << (context.json ? ToJson(*response, JsonStyle::kIndented)
                             : TerminalText(response->text()) + "\n")
            << std::flush;
  return kExitOk;
}

}  // namespace

std::vector<Command> TokenCommands() {
  return {{"tokenize",
           "[TEXT]",
           "token ids of a text",
           "Prints the ids on one line. The text is taken by itself, without BOS or EOS; without TEXT it is "
           "read from\n"
           "standard input or --prompt_file.",
           "sessactl tokenize --pieces 'Mia went to the kitchen.'",
           {"prompt_file", "pieces"},
           0,
           -1,
           &Tokenize},
          {"detokenize",
           "ID...",
           "the text of token ids",
           "Ids are separated by spaces or commas.",
           "sessactl detokenize 278 598 263",
           {"skip_special_tokens"},
           1,
           -1,
           &Detokenize}};
}

}  // namespace sessa
