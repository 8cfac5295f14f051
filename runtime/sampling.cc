#include "runtime/sampling.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "runtime/base/errors.h"
#include "runtime/text/utf8.h"

namespace sessa {
namespace {

constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr int32_t kMaxTopLogprobs = 20;

template <typename T>
void SortUnique(std::vector<T>* values) {
  std::sort(values->begin(), values->end());
  values->erase(std::unique(values->begin(), values->end()), values->end());
}

absl::Status CheckTokens(absl::string_view field, const std::vector<int32_t>& tokens, int32_t vocab) {
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocab) {
      return InvalidField(field, absl::StrCat("token ", token, " is not from 0 to ", vocab - 1));
    }
  }
  return absl::OkStatus();
}

// NaN fails every comparison, so the conditions say what is right.
absl::Status CheckNumbers(const SampleParams& p) {
  const struct {
    bool right;
    const char* field;
    const char* range;
  } checks[] = {
      {p.temperature >= 0 && p.temperature <= 100, "sampling.temperature", "from 0 to 100"},
      {p.top_k >= 0, "sampling.top_k", "at least 0"},
      {p.top_p > 0 && p.top_p <= 1, "sampling.top_p", "above 0 and at most 1"},
      {p.min_p >= 0 && p.min_p <= 1, "sampling.min_p", "from 0 to 1"},
      {p.repetition_penalty > 0 && p.repetition_penalty <= 100, "sampling.repetition_penalty",
       "above 0 and at most 100"},
      {p.presence_penalty >= -100 && p.presence_penalty <= 100, "sampling.presence_penalty",
       "from -100 to 100"},
      {p.frequency_penalty >= -100 && p.frequency_penalty <= 100, "sampling.frequency_penalty",
       "from -100 to 100"},
      {p.min_tokens >= 0, "sampling.min_tokens", "at least 0"},
      {p.top_logprobs >= -1 && p.top_logprobs <= kMaxTopLogprobs, "sampling.logprobs", "from 0 to 20"},
  };
  for (const auto& check : checks) {
    if (!check.right) return InvalidField(check.field, absl::StrCat("must be ", check.range));
  }
  return absl::OkStatus();
}

absl::Status CheckBias(const std::vector<std::pair<int32_t, float>>& bias, int32_t vocab) {
  for (size_t i = 0; i < bias.size(); ++i) {
    const auto& [token, value] = bias[i];
    if (token < 0 || token >= vocab) {
      return InvalidField("sampling.logit_bias",
                          absl::StrCat("token ", token, " is not from 0 to ", vocab - 1));
    }
    if (!(value >= -100 && value <= 100)) {
      return InvalidField("sampling.logit_bias",
                          absl::StrCat("of token ", token, " must be from -100 to 100"));
    }
    if (i > 0 && bias[i - 1].first == token) {
      return InvalidField("sampling.logit_bias", absl::StrCat("token ", token, " is there twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PrepareSampleParams(int32_t vocab, SampleParams* params) {
  std::sort(params->logit_bias.begin(), params->logit_bias.end());
  SortUnique(&params->allowed_tokens);
  SortUnique(&params->enders);
  for (const absl::Status& status : {CheckNumbers(*params), CheckBias(params->logit_bias, vocab),
                                     CheckTokens("sampling.allowed_token_ids", params->allowed_tokens, vocab),
                                     CheckTokens("sampling.stop_token_ids", params->enders, vocab)}) {
    if (!status.ok()) return status;
  }
  const bool only_enders = params->allowed_tokens.empty()
                               ? static_cast<int32_t>(params->enders.size()) == vocab
                               : std::includes(params->enders.begin(), params->enders.end(),
                                               params->allowed_tokens.begin(), params->allowed_tokens.end());
  if (params->min_tokens > 0 && only_enders) {
    return InvalidField("sampling.min_tokens", "every token that may be drawn ends the turn");
  }
  return absl::OkStatus();
}

absl::Status CheckStopStrings(const std::vector<std::string>& stop) {
  if (stop.size() > kMaxStopStrings) {
    return InvalidField("sampling.stop",
                        absl::StrCat("at most ", kMaxStopStrings, " stop strings are accepted"));
  }
  for (const std::string& text : stop) {
    if (text.empty()) return InvalidField("sampling.stop", "a stop string is empty");
    if (text.size() > kMaxStopBytes) {
      return InvalidField("sampling.stop",
                          absl::StrCat("a stop string has more than ", kMaxStopBytes, " bytes"));
    }
    if (!IsValidUtf8(text)) return InvalidField("sampling.stop", "a stop string is not valid UTF-8");
  }
  return absl::OkStatus();
}

}  // namespace sessa
