#include "loadtest/histogram.h"

#include <gtest/gtest.h>

namespace sessa {
namespace {

// A bucket's width is 2^(1/128), so its middle is within 0.28 % of anything in it.
constexpr double kRelative = 0.003;

TEST(Histogram, EmptyIsZero) {
  const Histogram h;
  EXPECT_EQ(h.count(), 0u);
  EXPECT_EQ(h.Percentile(0.5), 0);
  EXPECT_EQ(h.mean(), 0);
  EXPECT_TRUE(h.Cumulative().empty());
}

TEST(Histogram, OneValueIsEveryPercentile) {
  Histogram h;
  h.Add(0.0123);
  for (double share : {0.0, 0.5, 0.99, 1.0}) EXPECT_DOUBLE_EQ(h.Percentile(share), 0.0123);
}

TEST(Histogram, PercentilesAreTheNearestRank) {
  Histogram h;
  for (int i = 1; i <= 1000; ++i) h.Add(i * 1e-3);
  for (const auto& [share, value] : std::vector<std::pair<double, double>>{
           {0.001, 0.001}, {0.5, 0.5}, {0.9, 0.9}, {0.99, 0.99}, {0.999, 0.999}}) {
    EXPECT_NEAR(h.Percentile(share), value, value * kRelative) << share;
  }
  EXPECT_EQ(h.Percentile(1), 1.0);
  EXPECT_EQ(h.min(), 1e-3);
  EXPECT_EQ(h.max(), 1.0);
  EXPECT_NEAR(h.mean(), 0.5005, 1e-12);
}

TEST(Histogram, MergingIsTheSameAsAddingToOne) {
  Histogram all, even, odd;
  for (int i = 1; i <= 100; ++i) {
    all.Add(i * 1e-4);
    (i % 2 == 0 ? even : odd).Add(i * 1e-4);
  }
  even.Merge(odd);
  even.Merge(Histogram());
  for (double share : {0.1, 0.5, 0.95}) EXPECT_EQ(even.Percentile(share), all.Percentile(share));
  EXPECT_EQ(even.count(), all.count());
  EXPECT_EQ(even.min(), all.min());
  EXPECT_EQ(even.Cumulative(), all.Cumulative());
}

TEST(Histogram, ClampsWhatIsOutOfRangeButKeepsExactExtremes) {
  Histogram h;
  h.Add(0);
  h.Add(1e6);
  EXPECT_EQ(h.min(), 0);
  EXPECT_EQ(h.max(), 1e6);
  EXPECT_EQ(h.count(), 2u);
}

TEST(Histogram, CumulativeRisesFromZeroToOne) {
  Histogram h;
  for (double value : {0.001, 0.002, 0.002, 0.004}) h.Add(value);
  const auto points = h.Cumulative();
  ASSERT_EQ(points.size(), 4u);
  EXPECT_EQ(points[0].second, 0);
  EXPECT_EQ(points[2].second, 0.75);
  EXPECT_EQ(points[3], std::make_pair(0.004, 1.0));
}

}  // namespace
}  // namespace sessa
