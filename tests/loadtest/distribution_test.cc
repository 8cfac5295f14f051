#include "loadtest/distribution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace sessa {
namespace {

using ::testing::HasSubstr;

std::vector<double> Samples(const char* text, int count = 20001) {
  Random random(7);
  const Distribution d = *Distribution::Parse(text);
  std::vector<double> samples(count);
  for (double& sample : samples) sample = d.Sample(&random);
  std::sort(samples.begin(), samples.end());
  return samples;
}

double Mean(const std::vector<double>& samples) {
  double sum = 0;
  for (double sample : samples) sum += sample;
  return sum / static_cast<double>(samples.size());
}

TEST(Distribution, Fixed) {
  EXPECT_EQ(Samples("128").front(), 128);
  EXPECT_EQ(Samples("fixed:128").back(), 128);
  EXPECT_EQ(Distribution::Parse("128")->max(), 128);
}

TEST(Distribution, UniformIntegersReachBothEnds) {
  Random random(3);
  const Distribution d = *Distribution::Parse("uniform:2:4");
  std::vector<int> seen(6);
  for (int i = 0; i < 3000; ++i) ++seen.at(d.SampleInteger(&random));
  EXPECT_EQ(seen[1] + seen[5], 0);
  for (int value : {2, 3, 4}) EXPECT_NEAR(seen[value], 1000, 150) << value;  // 5 deviations
}

TEST(Distribution, ExponentialHasItsMean) {
  // The mean of 20001 draws of mean 2 deviates by 2 / sqrt(20001) = 0.014.
  EXPECT_NEAR(Mean(Samples("exponential:2")), 2, 5 * 0.0142);
}

TEST(Distribution, LogNormalHasItsMedianAndSigma) {
  const auto samples = Samples("lognormal:200:0.5");
  EXPECT_NEAR(samples[10000], 200, 10);
  EXPECT_NEAR(std::log(samples[16827] / samples[10000]), 0.5, 0.04) << "84.13 % lie below one deviation";
}

// Lengths end up as int32.
TEST(Distribution, NothingIsAboveTheMost) {
  for (const char* text : {"5000000000", "uniform:0:5000000000", "lognormal:1:1:1e10", "inf", "nan"}) {
    EXPECT_THAT(Distribution::Parse(text).status().message(), HasSubstr("[0, 1e9]")) << text;
  }
  for (const char* text : {"exponential:1e9", "lognormal:1e9:1e9"}) {
    EXPECT_EQ(Samples(text).back(), Distribution::kMost) << text;
  }
}

TEST(Distribution, LogNormalKeepsItsMaximum) {
  EXPECT_EQ(Samples("lognormal:200:2:500").back(), 500);
  EXPECT_EQ(Distribution::Parse("lognormal:200:2:500")->max(), 500);
}

TEST(Distribution, TheSameSeedGivesTheSameNumbers) {
  EXPECT_EQ(Samples("exponential:1"), Samples("exponential:1"));
}

TEST(Distribution, RefusesWhatItCannotRead) {
  for (const char* text : {"", "x", "uniform:5", "uniform:5:2", "fixed:-1", "fixed:nan", "lognormal:0:1",
                           "lognormal:1", "exponential:1:2", "fixed:1:2", "uniform:a:b"}) {
    const auto d = Distribution::Parse(text);
    EXPECT_EQ(d.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(d.status().message(), HasSubstr(text)) << text;
  }
}

TEST(Random, IsSplitmix64) {
  // The first outputs of the published generator for seed 1234567.
  Random random(1234567);
  EXPECT_EQ(random.Next(), 6457827717110365317ull);
  EXPECT_EQ(random.Next(), 3203168211198807973ull);
}

}  // namespace
}  // namespace sessa
