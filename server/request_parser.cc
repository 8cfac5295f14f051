#include "server/request_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/errors.h"
#include "runtime/sampling.h"
#include "server/error_details.h"

namespace sessa {
namespace {

constexpr int32_t kDefaultMaxTokens = 256;

// Collects the first violation; later ones are not looked at.
class Checker {
 public:
  void Require(bool holds, absl::string_view field, absl::string_view message) {
    if (!holds && status_.ok()) status_ = InvalidField(field, message);
  }
  void Range(absl::string_view field, double value, double least, double most) {
    Require(value >= least && value <= most, field,  // a NaN fails both
            absl::StrCat("must lie in [", least, ", ", most, "], not ", value));
  }
  void Token(absl::string_view field, int32_t token, int32_t vocab) {
    Require(token >= 0 && token < vocab, field,
            absl::StrCat("token ids lie in [0, ", vocab, "), ", token, " does not"));
  }
  void Add(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

// The numbers themselves are checked by PrepareSampleParams.
void ReadNumbers(const v1::SamplingParams& from, const RequestLimits& limits, Checker* check,
                 TurnRequest* turn) {
  SampleParams& to = turn->sampling;
  turn->max_tokens =
      from.has_max_tokens() ? from.max_tokens() : limits.defaults.max_new_tokens.value_or(kDefaultMaxTokens);
  check->Require(turn->max_tokens >= 0, "sampling.max_tokens",
                 absl::StrCat("must be at least 0, not ", turn->max_tokens));
  to.min_tokens = from.min_tokens();
  check->Require(to.min_tokens >= 0 && to.min_tokens <= turn->max_tokens, "sampling.min_tokens",
                 absl::StrCat("must lie in [0, max_tokens = ", turn->max_tokens, "], not ", to.min_tokens));
  to.temperature = from.has_temperature() ? from.temperature() : limits.defaults.temperature.value_or(1.0f);
  to.top_k = from.has_top_k() ? from.top_k() : limits.defaults.top_k.value_or(0);
  to.top_p = from.has_top_p() ? from.top_p() : limits.defaults.top_p.value_or(1.0f);
  to.min_p = from.has_min_p() ? from.min_p() : limits.defaults.min_p.value_or(0.0f);
  to.repetition_penalty = from.has_repetition_penalty() ? from.repetition_penalty()
                                                        : limits.defaults.repetition_penalty.value_or(1.0f);
  to.presence_penalty = from.presence_penalty();
  to.frequency_penalty = from.frequency_penalty();
}

void ReadStops(const v1::SamplingParams& from, const RequestLimits& limits, Checker* check,
               TurnRequest* turn) {
  check->Require(
      from.stop().empty() || limits.has_tokenizer, "sampling.stop",
      "this model has no tokenizer, so it gives no text to look for a stop string in; use stop_token_ids");
  check->Require(from.stop_token_ids_size() <= kMaxStopTokens, "sampling.stop_token_ids",
                 absl::StrCat("at most ", kMaxStopTokens, " tokens, not ", from.stop_token_ids_size()));
  turn->stop.assign(from.stop().begin(), from.stop().end());
  check->Add(CheckStopStrings(turn->stop));
  turn->stop_token_ids.assign(from.stop_token_ids().begin(), from.stop_token_ids().end());
  turn->ignore_eos = from.ignore_eos();
  turn->include_stop = from.include_stop();
  turn->skip_special_tokens = !from.has_skip_special_tokens() || from.skip_special_tokens();
  turn->sampling.enders = turn->stop_token_ids;
  if (!turn->ignore_eos && limits.eos_token >= 0) turn->sampling.enders.push_back(limits.eos_token);
}

void ReadTokenSets(const v1::SamplingParams& from, const RequestLimits& limits, Checker* check,
                   TurnRequest* turn) {
  check->Require(from.logit_bias_size() <= kMaxLogitBias, "sampling.logit_bias",
                 absl::StrCat("at most ", kMaxLogitBias, " entries, not ", from.logit_bias_size()));
  check->Require(from.allowed_token_ids_size() <= limits.vocab, "sampling.allowed_token_ids",
                 absl::StrCat("at most ", limits.vocab, " tokens, not ", from.allowed_token_ids_size()));
  turn->sampling.logit_bias.assign(from.logit_bias().begin(), from.logit_bias().end());
  turn->sampling.allowed_tokens.assign(from.allowed_token_ids().begin(), from.allowed_token_ids().end());
}

void ReadCounts(const v1::GenerateRequest& request, Checker* check, TurnRequest* turn) {
  const v1::SamplingParams& from = request.sampling();
  turn->sampling.top_logprobs = from.has_logprobs() ? from.logprobs() : -1;
  if (from.has_logprobs()) check->Range("sampling.logprobs", from.logprobs(), 0, kMaxLogprobs);
  turn->prompt_logprobs = from.has_prompt_logprobs() ? from.prompt_logprobs() : -1;
  if (from.has_prompt_logprobs())
    check->Range("sampling.prompt_logprobs", from.prompt_logprobs(), 0, kMaxLogprobs);
  check->Range("sampling.n", from.n(), 0, kMaxSamples);
  turn->n = std::max(1, from.n());
  check->Require(turn->n == 1 || (request.session_id().empty() && !request.keep_session()), "sampling.n",
                 "more than one sample only for a new session that is not kept");
}

bool IsEmpty(const Content& content) {
  return std::visit([](const auto& what) { return what.empty(); }, content);
}

// Text or ids of a message that has both as a oneof; `field` is the message's path with a dot, or empty.
template <class Message>
Content ReadContent(const std::string& field, const Message& from, const RequestLimits& limits,
                    Checker* check) {
  if (!from.has_token_ids()) {
    check->Add(CheckText(field + "text", from.text(), limits));
    return from.text();
  }
  const auto& ids = from.token_ids().ids();
  check->Add(CheckTokenIds(field + "token_ids.ids", absl::MakeConstSpan(ids.data(), ids.size()), limits));
  return std::vector<int32_t>(ids.begin(), ids.end());
}

void CheckDisconnect(v1::OnDisconnect on_disconnect, Checker* check) {
  if (on_disconnect == v1::ON_DISCONNECT_DETACH) check->Add(NotImplemented("on_disconnect = DETACH"));
  check->Require(v1::OnDisconnect_IsValid(on_disconnect), "on_disconnect", "not a known value");
}

// IDs go into metadata, logs and URLs: gRPC aborts over a control character in metadata.
absl::Status CheckId(const std::string& field, const std::string& id, size_t most) {
  const bool printable = std::all_of(id.begin(), id.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (id.size() <= most && printable) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("at most ", most, " printable ASCII characters without spaces"));
}

}  // namespace

absl::Status CheckRequestId(const std::string& field, const std::string& id) {
  return CheckId(field, id, kMaxRequestIdBytes);
}

absl::Status CheckSessionId(const std::string& field, const std::string& id) {
  return CheckId(field, id, kMaxSessionIdBytes);
}

absl::Status CheckText(const std::string& field, const std::string& text, const RequestLimits& limits) {
  if (!text.empty() && !limits.has_tokenizer) {
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     absl::StrCat(field, ": this model has no tokenizer; send token ids"),
                     {.reason = "NO_TOKENIZER", .field = field});
  }
  const int64_t most = limits.max_context * limits.max_token_bytes;
  if (limits.max_token_bytes == 0 || static_cast<int64_t>(text.size()) <= most) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument,
                   absl::StrCat(field, ": ", text.size(), " bytes cannot fit: the context holds ",
                                limits.max_context, " tokens of at most ", limits.max_token_bytes, " bytes"),
                   {.reason = "PROMPT_TOO_LONG", .field = field});
}

absl::Status CheckTokenIds(const std::string& field, absl::Span<const int32_t> ids,
                           const RequestLimits& limits) {
  if (static_cast<int64_t>(ids.size()) > limits.max_context) {
    return MakeError(
        absl::StatusCode::kInvalidArgument,
        absl::StrCat(field, ": ", ids.size(), " tokens cannot fit: the context holds ", limits.max_context),
        {.reason = "PROMPT_TOO_LONG", .field = field});
  }
  Checker check;
  for (const int32_t token : ids) check.Token(field, token, limits.vocab);
  return check.status();
}

absl::StatusOr<std::unique_ptr<TurnRequest>> ParseGenerate(const v1::GenerateRequest& request,
                                                           const RequestLimits& limits, uint64_t fresh_seed,
                                                           const std::string& fresh_id) {
  Checker check;
  check.Add(CheckRequestId("request_id", request.request_id()));
  check.Add(CheckSessionId("session_id", request.session_id()));
  auto turn = std::make_unique<TurnRequest>();
  turn->prompt = ReadContent("", request, limits, &check);
  check.Require(!request.session_id().empty() || !IsEmpty(turn->prompt), "prompt",
                "a new session needs a prompt: text or token_ids");
  check.Require(!request.has_expected_position() || request.expected_position() >= 0, "expected_position",
                "must be at least 0");
  CheckDisconnect(request.on_disconnect(), &check);

  ReadNumbers(request.sampling(), limits, &check, turn.get());
  ReadStops(request.sampling(), limits, &check, turn.get());
  ReadTokenSets(request.sampling(), limits, &check, turn.get());
  ReadCounts(request, &check, turn.get());
  check.Add(PrepareSampleParams(limits.vocab, &turn->sampling));
  if (!check.status().ok()) return check.status();

  turn->sampling.seed = request.sampling().has_seed() ? request.sampling().seed() : fresh_seed;
  turn->request_id = request.request_id().empty() ? fresh_id : request.request_id();
  turn->session_id = request.session_id();
  turn->keep_session = request.keep_session();
  turn->priority = request.priority();
  if (request.has_expected_position()) turn->expected_position = request.expected_position();
  return turn;
}

absl::StatusOr<ScorePlan> ParseScore(const v1::ScoreRequest& request, const RequestLimits& limits,
                                     const std::string& fresh_id) {
  Checker check;
  check.Add(CheckRequestId("request_id", request.request_id()));
  check.Add(CheckSessionId("session_id", request.session_id()));
  check.Require(request.choices_size() <= kMaxChoices, "choices",
                absl::StrCat("at most ", kMaxChoices, ", not ", request.choices_size()));
  check.Range("top_logprobs", request.top_logprobs(), 0, kMaxLogprobs);
  ScorePlan plan;
  plan.prompt = ReadContent("", request, limits, &check);
  check.Require(request.choices_size() > 0 || !IsEmpty(plan.prompt), "prompt",
                "give a prompt to score, or choices");
  for (int i = 0; i < request.choices_size() && check.status().ok(); ++i) {
    const std::string field = absl::StrCat("choices[", i, "].");
    plan.choices.push_back(ReadContent(field, request.choices(i), limits, &check));
    check.Require(!IsEmpty(plan.choices.back()), absl::StrCat(field, "content"),
                  "a choice has text or token_ids");
  }
  if (!check.status().ok()) return check.status();
  plan.request_id = request.request_id().empty() ? fresh_id : request.request_id();
  plan.session_id = request.session_id();
  plan.priority = request.priority();
  plan.top_logprobs = request.top_logprobs();
  return plan;
}

v1::SamplingParams DefaultSampling(const RequestLimits& limits) {
  v1::SamplingParams defaults;
  defaults.set_max_tokens(limits.defaults.max_new_tokens.value_or(kDefaultMaxTokens));
  defaults.set_temperature(limits.defaults.temperature.value_or(1.0f));
  defaults.set_top_k(limits.defaults.top_k.value_or(0));
  defaults.set_top_p(limits.defaults.top_p.value_or(1.0f));
  defaults.set_min_p(limits.defaults.min_p.value_or(0.0f));
  defaults.set_repetition_penalty(limits.defaults.repetition_penalty.value_or(1.0f));
  defaults.set_n(1);
  defaults.set_skip_special_tokens(true);
  return defaults;
}

}  // namespace sessa
