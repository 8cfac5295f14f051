#include <algorithm>
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
  // The first word is the prompt, unless that comes by a flag: then all are choices.
  const size_t prompt_words = PromptIsInFlags() ? 0 : std::min<size_t>(1, context.args.size());
  const auto choices = context.args.begin() + prompt_words;
  auto prompt = PromptFromFlags({context.args.begin(), choices});
  if (!prompt.ok()) return Fail(context, prompt.status());
  v1::ScoreRequest request;
  if (prompt->is_ids) {
    *request.mutable_token_ids() = prompt->ids;
  } else {
    request.set_text(prompt->text);
  }
  for (auto choice = choices; choice != context.args.end(); ++choice)
    request.add_choices()->set_text(*choice);
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
       "[PROMPT] [CHOICE]...",
       "log-probabilities of a text, or of choices after a prompt",
       "Without choices: how likely the prompt itself is. With choices: how likely each is as what follows "
       "the\n"
       "prompt, best one marked. With --prompt_file or --token_ids every argument is a choice; without any "
       "the "
       "prompt\n"
       "is read from standard input. Nothing is appended to --session; the prompt is scored after what it "
       "holds.",
       "sessactl score 'Mia went to the kitchen.'\n"
       "sessactl score $'Tom is in the barn.\\nQ: Where is Tom?\\nA:' ' Tom is in the barn.' ' Tom is in the "
       "yard.'",
       {"session", "prompt_file", "token_ids", "top_logprobs"},
       0,
       -1,
       &Score}};
}

}  // namespace sessa
