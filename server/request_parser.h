// Requests of clients, checked field by field, as turns for the core. Pure functions of their arguments.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/checkpoint/config.h"
#include "scheduler/request.h"
#include "sessa/v1/inference.pb.h"

namespace sessa {

// What a request is checked against; constant while the server runs.
struct RequestLimits {
  int32_t vocab = 0;
  int64_t max_context = 0;  // tokens
  // Tokenizer::MostBytesPerToken: a text longer than max_context such tokens cannot fit; 0: there is no such
  // bound.
  int64_t max_token_bytes = 0;
  bool has_tokenizer = false;
  int32_t bos_token = -1, eos_token = -1;  // -1: none
  GenerationDefaults defaults;             // what unset sampling fields mean
};

inline constexpr size_t kMaxRequestIdBytes = 128;
inline constexpr size_t kMaxSessionIdBytes = 128;
inline constexpr int kMaxStopTokens = 1024;
inline constexpr int kMaxLogitBias = 4096;
inline constexpr int32_t kMaxLogprobs = 20;
inline constexpr int32_t kMaxSamples = 16;
inline constexpr int kMaxChoices = 256;

// The turn, but for its sink, deadline and principal. `fresh_seed` is taken when the request has none and
// `fresh_id` when it has no request_id. INVALID_ARGUMENT names the field; UNIMPLEMENTED names the feature;
// FAILED_PRECONDITION (NO_TOKENIZER) for text where the model takes ids only.
absl::StatusOr<std::unique_ptr<TurnRequest>> ParseGenerate(const v1::GenerateRequest& request,
                                                           const RequestLimits& limits, uint64_t fresh_seed,
                                                           const std::string& fresh_id);

// A text to tokenise, or token ids.
using Content = std::variant<std::string, std::vector<int32_t>>;

// A Score request, checked.
struct ScorePlan {
  std::string request_id;
  Principal principal;
  absl::Time deadline = absl::InfiniteFuture();
  int32_t priority = 0;
  int32_t top_logprobs = 0;
  std::string session_id;  // its tokens come first; empty: none
  Content prompt;
  std::vector<Content> choices;  // empty: the prompt itself is scored
};

// The plan, but for deadline and principal. Errors as ParseGenerate's.
absl::StatusOr<ScorePlan> ParseScore(const v1::ScoreRequest& request, const RequestLimits& limits,
                                     const std::string& fresh_id);

// What unset fields mean on this server, for GetModel.
v1::SamplingParams DefaultSampling(const RequestLimits& limits);

// Checks that other requests share. Empty IDs pass.
absl::Status CheckRequestId(const std::string& field, const std::string& id);
absl::Status CheckSessionId(const std::string& field, const std::string& id);
// Text to tokenise, or ids; `field` is the oneof's path prefix ("" or "choices[3].").
absl::Status CheckText(const std::string& field, const std::string& text, const RequestLimits& limits);
absl::Status CheckTokenIds(const std::string& field, absl::Span<const int32_t> ids,
                           const RequestLimits& limits);

}  // namespace sessa
