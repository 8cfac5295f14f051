#include "client/flags.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/text.h"

ABSL_FLAG(std::string, server, "127.0.0.1:50051", "HOST:PORT of the daemon's gRPC listener");
ABSL_FLAG(bool, json, false,
          "print JSON: one document, or one line an event for streams; errors as {\"error\":...}");
ABSL_FLAG(std::optional<absl::Duration>, timeout, std::nullopt,
          "deadline of the call, as in 30s or 2m; a turn that runs by then ends with DEADLINE; unset: none "
          "for turns, "
          "scores, transfers, drain and top, 30s for the rest");
ABSL_FLAG(std::string, session, "", "id of the session to continue; empty: a new one");
ABSL_FLAG(bool, keep, false, "keep a new session after the turn; its id is printed at the end");
ABSL_FLAG(bool, stats, false, "print token counts and times on standard error at the end");
ABSL_FLAG(std::string, request_id, "", "name of the turn, for cancelling and retries; empty: made up");
ABSL_FLAG(int32_t, priority, 0, "higher goes first among waiting turns");
ABSL_FLAG(std::optional<int64_t>, expected_position, std::nullopt,
          "tokens that the session should have; the turn is refused if it has not");
ABSL_FLAG(std::string, on_disconnect, "cancel",
          "when this program goes away: cancel the turn, or detach (it goes on; kept sessions only)");
ABSL_FLAG(std::string, prompt_file, "", "file with the prompt, taken as it stands; - is standard input");
ABSL_FLAG(std::string, token_ids, "", "prompt as token ids, as in 1,907,549, instead of text");

ABSL_FLAG(std::optional<int32_t>, max_tokens, std::nullopt,
          "tokens to sample at most; 0 only appends the prompt; unset: the server's default, 256");
ABSL_FLAG(int32_t, min_tokens, 0, "neither EOS nor a stop ends the turn before so many");
ABSL_FLAG(std::optional<float>, temperature, std::nullopt, "0 is greedy; unset: the server's default, 1.0");
ABSL_FLAG(std::optional<int32_t>, top_k, std::nullopt, "only the k most likely tokens; 0 or unset: off");
ABSL_FLAG(std::optional<float>, top_p, std::nullopt,
          "only the most likely tokens that together have this probability, in (0, 1]; 1 or unset: off");
ABSL_FLAG(std::optional<float>, min_p, std::nullopt,
          "only tokens with this share of the most likely one's probability, in [0, 1]; 0 or unset: off");
ABSL_FLAG(std::optional<float>, repetition_penalty, std::nullopt,
          "divides the logits of tokens that occur in the session; 1 or unset: off");
ABSL_FLAG(float, presence_penalty, 0, "subtracted once from the logit of a token that occurs in the session");
ABSL_FLAG(float, frequency_penalty, 0,
          "subtracted from a token's logit for each time it occurs in the session");
ABSL_FLAG(std::optional<uint64_t>, seed, std::nullopt,
          "of the random draws; unset: the server chooses and tells");
ABSL_FLAG(std::string, stop, "",
          "stop strings, separated by commas; \\n \\t \\\\ \\, \\xHH stand for characters");
ABSL_FLAG(std::string, stop_token_ids, "", "token ids that end the turn, as in 13,2");
ABSL_FLAG(bool, ignore_eos, false, "the model's end-of-text token does not end the turn");
ABSL_FLAG(std::string, logit_bias, "", "added to tokens' logits, as in 7:-1.5,20:3");
ABSL_FLAG(std::string, allowed_token_ids, "", "only these token ids may be drawn; empty: all");
ABSL_FLAG(
    std::optional<int32_t>, logprobs, std::nullopt,
    "log-probabilities of the sampled tokens: 0 their own, N also the N most likely (shown with --json)");
ABSL_FLAG(
    std::optional<int32_t>, prompt_logprobs, std::nullopt,
    "log-probabilities of the prompt's tokens: 0 their own, N also the N most likely (shown with --json)");
ABSL_FLAG(int32_t, n, 1, "samples of the prompt; more than 1 only for a new session that is not kept");
ABSL_FLAG(bool, include_stop, false, "print the stop string too");
ABSL_FLAG(bool, skip_special_tokens, true, "special tokens give no text; false shows their names");

namespace sessa {
namespace {

constexpr absl::Duration kQuickCallTimeout = absl::Seconds(30);

template <typename Ids>
absl::Status AddIds(const char* flag, const std::string& text, Ids* ids) {
  const auto parsed = ParseIds(text);
  if (!parsed.ok())
    return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", parsed.status().message()));
  ids->Add(parsed->begin(), parsed->end());
  return absl::OkStatus();
}

// Through stdio, which tells what cannot be read (a folder, say) of standard input too; std::cin takes that
// for its end.
absl::StatusOr<std::string> ReadText(const std::string& path) {
  const bool standard_input = path == "-";
  const std::string name = standard_input ? "standard input" : path;
  std::string text;
  FILE* file = standard_input ? stdin : std::fopen(path.c_str(), "rb");
  int error = file == nullptr ? errno : 0;
  char buffer[1 << 16];
  for (size_t n; error == 0 && (n = std::fread(buffer, 1, sizeof(buffer), file)) > 0;) text.append(buffer, n);
  if (error == 0 && std::ferror(file) != 0) error = errno;
  if (file != nullptr && !standard_input) std::fclose(file);
  if (error == 0) return text;
  return absl::InvalidArgumentError(absl::StrCat("cannot read ", name, ": ", std::strerror(error)));
}

}  // namespace

absl::StatusOr<v1::SamplingParams> SamplingFromFlags() {
  v1::SamplingParams params;
  if (const auto v = absl::GetFlag(FLAGS_max_tokens)) params.set_max_tokens(*v);
  if (const auto v = absl::GetFlag(FLAGS_temperature)) params.set_temperature(*v);
  if (const auto v = absl::GetFlag(FLAGS_top_k)) params.set_top_k(*v);
  if (const auto v = absl::GetFlag(FLAGS_top_p)) params.set_top_p(*v);
  if (const auto v = absl::GetFlag(FLAGS_min_p)) params.set_min_p(*v);
  if (const auto v = absl::GetFlag(FLAGS_repetition_penalty)) params.set_repetition_penalty(*v);
  if (const auto v = absl::GetFlag(FLAGS_seed)) params.set_seed(*v);
  if (const auto v = absl::GetFlag(FLAGS_logprobs)) params.set_logprobs(*v);
  if (const auto v = absl::GetFlag(FLAGS_prompt_logprobs)) params.set_prompt_logprobs(*v);
  params.set_min_tokens(absl::GetFlag(FLAGS_min_tokens));
  params.set_presence_penalty(absl::GetFlag(FLAGS_presence_penalty));
  params.set_frequency_penalty(absl::GetFlag(FLAGS_frequency_penalty));
  params.set_ignore_eos(absl::GetFlag(FLAGS_ignore_eos));
  params.set_include_stop(absl::GetFlag(FLAGS_include_stop));
  params.set_n(absl::GetFlag(FLAGS_n));
  if (!absl::GetFlag(FLAGS_skip_special_tokens)) params.set_skip_special_tokens(false);

  const auto stop = ParseEscapedList(absl::GetFlag(FLAGS_stop));
  if (!stop.ok()) return absl::InvalidArgumentError(absl::StrCat("--stop: ", stop.status().message()));
  params.mutable_stop()->Add(stop->begin(), stop->end());
  const auto bias = ParseBias(absl::GetFlag(FLAGS_logit_bias));
  if (!bias.ok()) return absl::InvalidArgumentError(absl::StrCat("--logit_bias: ", bias.status().message()));
  params.mutable_logit_bias()->insert(bias->begin(), bias->end());
  absl::Status ids =
      AddIds("stop_token_ids", absl::GetFlag(FLAGS_stop_token_ids), params.mutable_stop_token_ids());
  ids.Update(AddIds("allowed_token_ids", absl::GetFlag(FLAGS_allowed_token_ids),
                    params.mutable_allowed_token_ids()));
  if (!ids.ok()) return ids;
  return params;
}

absl::StatusOr<v1::GenerateRequest> GenerateRequestFromFlags() {
  v1::GenerateRequest request;
  auto sampling = SamplingFromFlags();
  if (!sampling.ok()) return sampling.status();
  *request.mutable_sampling() = *std::move(sampling);
  request.set_session_id(absl::GetFlag(FLAGS_session));
  request.set_keep_session(absl::GetFlag(FLAGS_keep));
  request.set_request_id(absl::GetFlag(FLAGS_request_id));
  if (request.request_id().empty()) request.set_request_id(RandomId());
  request.set_priority(absl::GetFlag(FLAGS_priority));
  if (const auto v = absl::GetFlag(FLAGS_expected_position)) request.set_expected_position(*v);
  const std::string on_disconnect = absl::GetFlag(FLAGS_on_disconnect);
  if (on_disconnect == "detach") {
    request.set_on_disconnect(v1::ON_DISCONNECT_DETACH);
  } else if (on_disconnect != "cancel") {
    return absl::InvalidArgumentError("--on_disconnect: cancel or detach");
  }
  return request;
}

bool PromptIsInFlags() {
  return !absl::GetFlag(FLAGS_token_ids).empty() || !absl::GetFlag(FLAGS_prompt_file).empty();
}

absl::StatusOr<Prompt> PromptFromFlags(const std::vector<std::string>& words) {
  Prompt prompt;
  const std::string ids = absl::GetFlag(FLAGS_token_ids);
  std::string file = absl::GetFlag(FLAGS_prompt_file);
  if (int{!ids.empty()} + int{!file.empty()} + int{!words.empty()} > 1) {
    return absl::InvalidArgumentError("give one prompt: an argument, --prompt_file or --token_ids");
  }
  if (!ids.empty()) {
    prompt.is_ids = true;
    const absl::Status status = AddIds("token_ids", ids, prompt.ids.mutable_ids());
    if (!status.ok()) return status;
    return prompt;
  }
  if (words.empty() && file.empty() && !isatty(STDIN_FILENO)) file.assign(1, '-');
  if (file.empty()) {
    prompt.text = absl::StrJoin(words, " ");
    return prompt;
  }
  auto text = ReadText(file);
  if (!text.ok()) return text.status();
  prompt.text = *std::move(text);
  return prompt;
}

CallOptions QuickCall() {
  return {.deadline = absl::Now() + absl::GetFlag(FLAGS_timeout).value_or(kQuickCallTimeout)};
}

CallOptions LongCall(CallCanceller* canceller) {
  return {.deadline = absl::Now() + absl::GetFlag(FLAGS_timeout).value_or(absl::InfiniteDuration()),
          .canceller = canceller};
}

}  // namespace sessa
