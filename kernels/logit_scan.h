// Passes over a row of logits that the host sampler is made of. Each has one fixed order of additions, so
// results do not depend on the machine, and is written so that the compiler vectorises it. Internal to
// kernels/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/host_sampler.h"

namespace sessa {

inline constexpr size_t kScanBlock = 256;  // weights of one entry of block_sums

struct LogitRange {
  float max;  // meaningless when bad
  bool bad;   // a NaN or +inf is among them
};
LogitRange ScanLogits(absl::Span<const float> logits);

// The first index whose value equals `value`, which must occur.
int32_t FirstEqual(absl::Span<const float> values, float value);

// out[i] = exp((logits[i] - max) / temperature), 0 where the exponent is below -86. Within 2 units in the
// last place. place. max >= every logit; the sizes are equal.
void ExpScaled(absl::Span<const float> logits, float max, float temperature, absl::Span<float> out);

// The sum of the weights, and of each block of kScanBlock of them.
double SumBlocks(absl::Span<const float> weights, std::vector<double>& block_sums);

// The greatest threshold such that at least `count` values are >= it; the least value above -inf when there
// are fewer.
float SelectByCount(absl::Span<const float> values, int64_t count, SampleScratch& scratch);

// The greatest threshold such that the weights of the values >= it sum to at least `sum` (up to rounding).
float SelectByWeight(absl::Span<const float> values, absl::Span<const float> weights, double sum,
                     SampleScratch& scratch);

}  // namespace sessa
