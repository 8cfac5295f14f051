// What to do with the logits of one row, and what comes of it. The meaning is fixed by SampleRow in
// kernels/host_sampler.h; a backend that samples elsewhere follows it.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sessa {

// Resolved parameters of a turn's sampling; immutable while the turn runs. Validated above (runtime/sampling.h).
// Order of processing: allowed_tokens, logit_bias, banned tokens (min_tokens), repetition, presence and
// frequency penalty, temperature, top_k, top_p, min_p, draw.
struct SampleParams {
  float temperature = 1.0f;  // 0: greedy, ties to the lowest id
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;        // 1: off
  float min_p = 0.0f;        // 0: off
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  uint32_t sample_index = 0;  // of n > 1; with the seed and the position it keys the random draw
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token, added to its logit), sorted by token
  std::vector<int32_t> allowed_tokens;                // sorted; empty: all
  int32_t min_tokens = 0;            // until that many were sampled, the tokens of `enders` cannot be drawn
  std::vector<int32_t> enders;       // EOS (unless ignored) and stop_token_ids
  int32_t top_logprobs = -1;         // -1: none; 0: the token's own; n: also the n most likely

  // True when the row needs nothing but temperature, top_k, top_p and min_p: a GPU may do it without the host.
  bool IsPlain() const {
    return repetition_penalty == 1.0f && presence_penalty == 0.0f && frequency_penalty == 0.0f &&
           logit_bias.empty() && allowed_tokens.empty() && (min_tokens == 0 || enders.empty()) &&
           top_logprobs < 0;
  }
};

// How often each token occurs in the whole session so far. Engine-thread only.
using TokenCounts = std::unordered_map<int32_t, int32_t>;

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0.0f;  // natural logarithm, of softmax over the raw logits (before any processing)
};

// What a row of logits is for.
struct OutputRow {
  int32_t row = 0;           // of the batch
  int64_t position = 0;      // in the session, of the token that these logits predict
  int32_t target = -1;       // >= 0: nothing is drawn; the result is this token and its log-probability
  int32_t slot = -1;         // >= 0: the drawn token also goes to this slot (Segment::token_slot of the next step)
  int32_t sampled_before = 0;                 // tokens of this turn sampled already (min_tokens)
  const SampleParams* params = nullptr;       // alive until Collect
  const TokenCounts* counts = nullptr;        // alive and unchanged until Collect; needed for penalties only
};

struct OutputResult {
  int32_t token = -1;
  float logprob = 0.0f;           // valid when params->top_logprobs >= 0 or target >= 0
  bool finite = true;             // false: a logit was NaN or +inf; token is then meaningless
  std::vector<TokenLogprob> top;  // the most likely ones, most likely first; ties by lower id
};

}  // namespace sessa
