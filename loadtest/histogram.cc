#include "loadtest/histogram.h"

#include <algorithm>
#include <cmath>

namespace sessa {
namespace {

constexpr double kSmallest = 1e-6, kLargest = 3600;
constexpr int kPerOctave = 128;
constexpr int kBuckets = 32 * kPerOctave;  // 2^32 us is more than an hour

int BucketOf(double seconds) {
  return static_cast<int>(kPerOctave * std::log2(std::clamp(seconds, kSmallest, kLargest) / kSmallest));
}

// The geometric middle of a bucket.
double ValueOf(int bucket) { return kSmallest * std::exp2((bucket + 0.5) / kPerOctave); }

}  // namespace

Histogram::Histogram() : buckets_(kBuckets) {}

void Histogram::Add(double seconds) {
  ++buckets_[BucketOf(seconds)];
  min_ = count_ == 0 ? seconds : std::min(min_, seconds);
  max_ = std::max(max_, seconds);
  sum_ += seconds;
  ++count_;
}

void Histogram::Merge(const Histogram& other) {
  if (other.count_ == 0) return;
  for (int i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
  min_ = count_ == 0 ? other.min_ : std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
  sum_ += other.sum_;
  count_ += other.count_;
}

double Histogram::Percentile(double share) const {
  if (count_ == 0) return 0;
  const uint64_t rank =
      std::max<uint64_t>(1, static_cast<uint64_t>(std::ceil(share * static_cast<double>(count_))));
  if (rank >= count_) return max_;
  uint64_t seen = 0;
  for (int i = 0; i < kBuckets; ++i) {
    seen += buckets_[i];
    if (seen >= rank) return std::clamp(ValueOf(i), min_, max_);
  }
  return max_;
}

std::vector<std::pair<double, double>> Histogram::Cumulative() const {
  std::vector<std::pair<double, double>> points;
  uint64_t seen = 0;
  for (int i = 0; i < kBuckets; ++i) {
    if (buckets_[i] == 0) continue;
    if (points.empty()) points.emplace_back(min_, 0);
    seen += buckets_[i];
    const double value = seen == count_ ? max_ : std::clamp(ValueOf(i), min_, max_);
    points.emplace_back(value, static_cast<double>(seen) / static_cast<double>(count_));
  }
  return points;
}

}  // namespace sessa
