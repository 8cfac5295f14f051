// Latencies in bounded memory.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace sessa {

// Counts values in [1 us, 1 h] (others are clamped) in buckets of equal ratio, 128 an octave: a percentile is
// off by at most 0.3 %. Count, sum, minimum and maximum are exact. One thread.
class Histogram {
 public:
  Histogram();
  void Add(double seconds);
  void Merge(const Histogram& other);

  uint64_t count() const { return count_; }
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }
  double min() const { return count_ == 0 ? 0 : min_; }
  double max() const { return max_; }
  // The smallest value that at least this share of the values do not exceed; share in [0, 1]. 0 where there
  // is none.
  double Percentile(double share) const;
  // (seconds, share of the values up to it), ascending: from (min, 0), one a bucket that holds
  // something.
  std::vector<std::pair<double, double>> Cumulative() const;

 private:
  std::vector<uint64_t> buckets_;
  uint64_t count_ = 0;
  double sum_ = 0, min_ = 0, max_ = 0;
};

}  // namespace sessa
