#include <cmath>
#include <iostream>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "client/commands/command.h"
#include "client/flags.h"
#include "client/json.h"
#include "client/text.h"

ABSL_FLAG(int32_t, top_logprobs, 0, "also the N most likely tokens at each place (shown with --json)");

namespace sessa {
namespace {

int Score(const CommandContext& context) {
  const bool from_flags = !context.args.empty();
  auto prompt = PromptFromFlags(from_flags ? context.args[0] : "");
  if (!prompt.ok()) return Fail(context, prompt.status());
  v1::ScoreRequest request;
  if (prompt->is_ids) {
    *request.mutable_token_ids() = prompt->ids;
  } else {
    request.set_text(prompt->text);
  }
  for (size_t i = 1; i < context.args.size(); ++i) request.add_choices()->set_text(context.args[i]);
  request.set_session_id(absl::GetFlag(FLAGS_session));
  request.set_top_logprobs(absl::GetFlag(FLAGS_top_logprobs));
  request.set_request_id(RandomId());

  std::vector<v1::ChoiceScore> scores;
  CallCanceller canceller;
  context.interrupts->SetHandler([&canceller] { canceller.Cancel(); });
  const auto finished =
      context.client->Score(request, LongCall(&canceller), [&](const v1::ScoreResponse& event) {
        if (context.json) std::cout << ToJson(event, JsonStyle::kLine) << "\n";
        if (event.has_score()) scores.push_back(event.score());
      });
  context.interrupts->SetHandler(nullptr);
  if (!finished.ok()) return Fail(context, finished.status());
  if (context.json) return kExitOk;
  std::cout << "   logprob  tokens  a token  perplexity  greedy\n";
  for (const v1::ChoiceScore& score : scores) {
    const double mean = score.tokens() == 0 ? 0 : score.logprob() / score.tokens();
    const std::string text =
        request.choices().empty() ? "(the prompt)" : TerminalText(request.choices(score.choice()).text());
    std::cout << absl::StreamFormat(
        "%10.4f  %6d  %7.4f  %10.2f  %6s  %s%s\n", score.logprob(), score.tokens(), mean, std::exp(-mean),
        score.is_greedy() ? "yes" : "no", text,
        scores.size() > 1 && score.choice() == finished->best_choice() ? "  <- best" : "");
  }
  std::cout << std::flush;
  return kExitOk;
}

}  // namespace

std::vector<Command> ScoreCommands() {
  return {
      {"score",
       "PROMPT [CHOICE]...",
       "log-probabilities of a text, or of choices after a prompt",
       "Without choices: how likely the prompt itself is. With choices: how likely each is as what follows "
       "the\n"
       "prompt, best one marked. Nothing is appended to --session; the prompt is scored after what it holds.",
       "sessactl score 'Mia went to the kitchen.'\n"
       "sessactl score $'Tom is in the barn.\\nQ: Where is Tom?\\nA:' ' Tom is in the barn.' ' Tom is in the "
       "yard.'",
       {"session", "prompt_file", "token_ids", "top_logprobs"},
       0,
       -1,
       &Score}};
}

}  // namespace sessa
