// From the logits of one row to its token, on the host. This is what SampleParams means; a backend that
// samples on its device draws from the same distribution with the same random number.
//
// In this order (l: logits, V of them; the names are those of SampleParams):
//  1. allowed_tokens, when there are any: l = -inf for every other token.
//  2. logit_bias: l[token] += bias.
//  3. min_tokens: while fewer than min_tokens were sampled in this turn, l = -inf for each of `enders`.
//  4. repetition_penalty r, for tokens that occur in the session: l = l > 0 ? l / r : l * r.
//  5. frequency_penalty and presence_penalty, for the same tokens: l -= frequency * count + presence.
//     (vLLM counts the prompt for 4 only; here all three count the whole session, prompts included.)
//     A result of 4 and 5 beyond the range of float is the greatest or least float.
//  6. temperature 0: the token with the greatest l, the lowest id of equals. Else p = softmax(l /
//  temperature).
//  7. top_k: keeps the k greatest l.
//  8. top_p: of these, renormalised, keeps the greatest until their sum reaches top_p; at least one.
//  9. min_p: keeps those with p >= min_p * (the greatest p).
//     7 and 8 treat equal logits alike: those that equal the last one kept are kept, too.
// 10. The draw: u = DrawUniform(seed, sample_index, position) of kernels/philox.h; the token is the first, by
//     ascending id, at which the running sum of p over the kept tokens exceeds u times their sum.
// Log-probabilities are of softmax(l) before any of this.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/sampling.h"

namespace sessa {

// Memory that SampleRow reuses from row to row. One thread at a time; contents mean nothing between calls.
class SampleScratch {
 public:
  std::vector<float> logits;       // (V) processed
  std::vector<float> weights;      // (V) unnormalised probabilities
  std::vector<double> block_sums;  // of the weights
  struct Candidate {
    uint32_t key;
    float weight;
  };
  std::vector<Candidate> candidates;
  std::vector<double> bins;
};

// Draws, or scores row.target. `logits` are the raw ones (V). row.params may be null only where row.target >=
// 0. The result is not finite when a logit is NaN or +inf, or when no token is left to draw. Thread-safe with
// a scratch of one's own; a pure function of its arguments.
OutputResult SampleRow(absl::Span<const float> logits, const OutputRow& row, SampleScratch& scratch);

}  // namespace sessa
