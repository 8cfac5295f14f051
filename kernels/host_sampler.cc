#include "kernels/host_sampler.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "kernels/logit_scan.h"
#include "kernels/philox.h"

namespace sessa {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kMost = std::numeric_limits<float>::max();

// Results end at the border of float: parameters that clients may send make no logit +inf, which would be
// taken for a fault of the model, nor ban a token.
void ApplyPenalties(const SampleParams& params, const TokenCounts& counts, std::vector<float>& logits) {
  for (const auto& [token, count] : counts) {
    float& l = logits[token];
    if (count <= 0 || l == -kInf) continue;
    l = l > 0 ? l / params.repetition_penalty : l * params.repetition_penalty;
    l -= params.frequency_penalty * static_cast<float>(count) + params.presence_penalty;
    l = std::clamp(l, -kMost, kMost);
  }
}

// Steps 1 to 5. Returns the raw logits themselves where there is nothing to do.
absl::Span<const float> Process(absl::Span<const float> raw, const OutputRow& row, SampleScratch& scratch) {
  const SampleParams& params = *row.params;
  const bool ban = row.sampled_before < params.min_tokens && !params.enders.empty();
  const bool penalties = params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
                         params.frequency_penalty != 0.0f;
  if (params.allowed_tokens.empty() && params.logit_bias.empty() && !ban && !penalties) return raw;

  std::vector<float>& logits = scratch.logits;
  if (params.allowed_tokens.empty()) {
    logits.assign(raw.begin(), raw.end());
  } else {
    logits.assign(raw.size(), -kInf);
    for (const int32_t token : params.allowed_tokens) logits[token] = raw[token];
  }
  for (const auto& [token, bias] : params.logit_bias) logits[token] += bias;
  if (ban) {
    for (const int32_t token : params.enders) logits[token] = -kInf;
  }
  if (penalties) {
    assert(row.counts != nullptr);
    ApplyPenalties(params, *row.counts, logits);
  }
  return logits;
}

// Steps 7 to 9: the weights of tokens that are not kept become 0.
void Filter(const SampleParams& params, absl::Span<const float> logits, SampleScratch& scratch) {
  std::vector<float>& weights = scratch.weights;
  const auto cut = [&](float threshold) {
    for (size_t i = 0; i < weights.size(); ++i) {
      if (logits[i] < threshold) weights[i] = 0.0f;
    }
  };
  if (params.top_k > 0 && params.top_k < static_cast<int64_t>(logits.size())) {
    cut(SelectByCount(logits, params.top_k, scratch));
  }
  if (params.top_p < 1.0f) {
    const double sum = SumBlocks(weights, scratch.block_sums);
    cut(SelectByWeight(logits, weights, params.top_p * sum, scratch));
  }
  if (params.min_p > 0.0f) {  // the greatest weight is 1
    for (float& weight : weights) {
      if (weight < params.min_p) weight = 0.0f;
    }
  }
}

// Step 10, over scratch.weights.
int32_t Draw(const OutputRow& row, SampleScratch& scratch) {
  const std::vector<float>& weights = scratch.weights;
  const double sum = SumBlocks(weights, scratch.block_sums);
  const double goal = DrawUniform(row.params->seed, row.params->sample_index, row.position) * sum;
  double before = 0.0;  // of the blocks skipped
  size_t block = 0;
  while (block + 1 < scratch.block_sums.size() && before + scratch.block_sums[block] <= goal) {
    before += scratch.block_sums[block++];
  }
  double running = before;
  int32_t last = -1;  // of the tokens with a weight: where rounding lets the sum end at or below the goal
  for (size_t i = block * kScanBlock; i < weights.size(); ++i) {
    if (weights[i] == 0.0f) continue;
    last = static_cast<int32_t>(i);
    running += weights[i];
    if (running > goal) return last;
  }
  if (last >= 0) return last;
  for (size_t i = block * kScanBlock; i-- > 0;) {
    if (weights[i] != 0.0f) return static_cast<int32_t>(i);
  }
  return -1;  // unreachable: the most likely token has weight 1
}

int32_t Choose(absl::Span<const float> logits, float max, const OutputRow& row, SampleScratch& scratch) {
  const SampleParams& params = *row.params;
  if (params.temperature == 0.0f) return FirstEqual(logits, max);
  scratch.weights.resize(logits.size());
  ExpScaled(logits, max, params.temperature, absl::MakeSpan(scratch.weights));
  Filter(params, logits, scratch);
  return Draw(row, scratch);
}

// The n most likely, by raw logits.
std::vector<TokenLogprob> TopLogprobs(absl::Span<const float> logits, int32_t n, double log_sum,
                                      SampleScratch& scratch) {
  std::vector<TokenLogprob> top;
  if (n <= 0) return top;
  const float threshold = SelectByCount(logits, n, scratch);
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] >= threshold) top.push_back({static_cast<int32_t>(i), logits[i]});
  }
  std::stable_sort(top.begin(), top.end(),
                   [](const TokenLogprob& a, const TokenLogprob& b) { return a.logprob > b.logprob; });
  if (top.size() > static_cast<size_t>(n)) top.resize(n);
  for (TokenLogprob& entry : top) entry.logprob = static_cast<float>(entry.logprob - log_sum);
  return top;
}

}  // namespace

OutputResult SampleRow(absl::Span<const float> logits, const OutputRow& row, SampleScratch& scratch) {
  assert(row.params != nullptr || row.target >= 0);
  assert(row.target < static_cast<int64_t>(logits.size()));
  OutputResult result;
  const LogitRange raw = ScanLogits(logits);
  result.finite = !raw.bad && raw.max > -kInf;
  if (!result.finite) return result;

  if (row.target >= 0) {
    result.token = row.target;
  } else {
    const absl::Span<const float> processed = Process(logits, row, scratch);
    const LogitRange range = processed.data() == logits.data() ? raw : ScanLogits(processed);
    result.finite = !range.bad && range.max > -kInf;
    if (!result.finite) return result;
    result.token = Choose(processed, range.max, row, scratch);
  }
  const int32_t top = row.params == nullptr ? -1 : row.params->top_logprobs;
  if (row.target >= 0 || top >= 0) {
    scratch.weights.resize(logits.size());
    ExpScaled(logits, raw.max, 1.0f, absl::MakeSpan(scratch.weights));
    const double log_sum = raw.max + std::log(SumBlocks(scratch.weights, scratch.block_sums));
    result.logprob = static_cast<float>(logits[result.token] - log_sum);
    result.top = TopLogprobs(logits, top, log_sum, scratch);
  }
  return result;
}

}  // namespace sessa
