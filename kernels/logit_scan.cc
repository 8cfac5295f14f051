#include "kernels/logit_scan.h"

#include <cstring>
#include <limits>

namespace sessa {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int kLanes = 16;

// exp(x) for x <= 0: 2^n times a polynomial in the remainder (Cody and Waite; coefficients of Cephes expf).
// Without branches and library calls, so that loops over it vectorise and every machine gets the same bits.
inline float ExpNonPositive(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float clamped = x > -86.0f ? x : -86.0f;
  const float shifted = clamped * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return x > -86.0f ? p * power : 0.0f;
}

// Unsigned keys in the order of the floats; -0 and +0 get the same key.
inline uint32_t KeyOf(float value) {
  const float canonical = value + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &canonical, sizeof(bits));
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

inline float ValueOf(uint32_t key) {
  const uint32_t bits = (key >> 31) != 0 ? key & 0x7fffffffu : ~key;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The bin, from the top, at which the running sum reaches *sum; *sum is lessened by the bins above it. Where
// rounding keeps the sum from being reached: the lowest bin that is not empty.
uint32_t FindBin(const std::vector<double>& bins, double* sum) {
  uint32_t lowest = 0;
  double above = 0.0, above_lowest = 0.0;
  for (uint32_t bin = static_cast<uint32_t>(bins.size()); bin-- > 0;) {
    if (bins[bin] == 0.0) continue;
    lowest = bin;
    above_lowest = above;
    if (above + bins[bin] >= *sum) break;
    above += bins[bin];
  }
  *sum -= above_lowest;
  return lowest;
}

// A radix descent over the keys: 11, 11 and 10 bits. weight(i) > 0 or the value does not count.
template <typename Weight>
float Select(absl::Span<const float> values, Weight weight, double sum, SampleScratch& scratch) {
  std::vector<double>& bins = scratch.bins;
  std::vector<SampleScratch::Candidate>& candidates = scratch.candidates;
  bins.assign(2048, 0.0);
  for (size_t i = 0; i < values.size(); ++i) bins[KeyOf(values[i]) >> 21] += weight(i);
  uint32_t prefix = FindBin(bins, &sum);
  candidates.clear();
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t key = KeyOf(values[i]);
    if (key >> 21 == prefix && weight(i) > 0) candidates.push_back({key, weight(i)});
  }
  for (const int shift : {10, 0}) {
    const int width = shift == 10 ? 11 : 10;
    const uint32_t mask = (1u << width) - 1;
    bins.assign(size_t{1} << width, 0.0);
    for (const auto& c : candidates) {
      if (c.key >> (shift + width) == prefix) bins[(c.key >> shift) & mask] += c.weight;
    }
    prefix = prefix << width | FindBin(bins, &sum);
  }
  return ValueOf(prefix);
}

}  // namespace

LogitRange ScanLogits(absl::Span<const float> logits) {
  float max[kLanes];
  int32_t bad[kLanes] = {};
  for (float& m : max) m = -kInf;
  const size_t whole = logits.size() / kLanes * kLanes;
  const float* l = logits.data();
  for (size_t i = 0; i < whole; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      max[j] = l[i + j] > max[j] ? l[i + j] : max[j];
      bad[j] |= !(l[i + j] < kInf);
    }
  }
  for (size_t i = whole; i < logits.size(); ++i) {
    max[0] = l[i] > max[0] ? l[i] : max[0];
    bad[0] |= !(l[i] < kInf);
  }
  LogitRange range{-kInf, false};
  for (int j = 0; j < kLanes; ++j) {
    range.max = max[j] > range.max ? max[j] : range.max;
    range.bad |= bad[j] != 0;
  }
  return range;
}

int32_t FirstEqual(absl::Span<const float> values, float value) {
  size_t i = 0;
  while (values[i] != value) ++i;
  return static_cast<int32_t>(i);
}

void ExpScaled(absl::Span<const float> logits, float max, float temperature, absl::Span<float> out) {
  const float* l = logits.data();
  float* o = out.data();
  const size_t n = logits.size();
  if (temperature == 1.0f) {
    for (size_t i = 0; i < n; ++i) o[i] = ExpNonPositive(l[i] - max);
  } else {
    for (size_t i = 0; i < n; ++i) o[i] = ExpNonPositive((l[i] - max) / temperature);
  }
}

double SumBlocks(absl::Span<const float> weights, std::vector<double>& block_sums) {
  block_sums.clear();
  double total = 0.0;
  for (size_t first = 0; first < weights.size(); first += kScanBlock) {
    const float* w = weights.data() + first;
    const size_t n = weights.size() - first < kScanBlock ? weights.size() - first : kScanBlock;
    double lane[8] = {};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
      for (int j = 0; j < 8; ++j) lane[j] += w[i + j];
    }
    for (; i < n; ++i) lane[0] += w[i];
    const double sum =
        ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    block_sums.push_back(sum);
    total += sum;
  }
  return total;
}

float SelectByCount(absl::Span<const float> values, int64_t count, SampleScratch& scratch) {
  return Select(
      values, [&](size_t i) { return values[i] > -kInf ? 1.0f : 0.0f; }, static_cast<double>(count), scratch);
}

float SelectByWeight(absl::Span<const float> values, absl::Span<const float> weights, double sum,
                     SampleScratch& scratch) {
  return Select(
      values, [&](size_t i) { return weights[i]; }, sum, scratch);
}

}  // namespace sessa
