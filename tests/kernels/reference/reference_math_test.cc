#include "kernels/reference/reference_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "gtest/gtest.h"
#include "kernels/state_layout.h"

namespace sessa::reference {
namespace {

TEST(ReferenceMath, GeluIsTheErfForm) {
  for (float x = -12; x < 12; x += 0.01f) {
    const double expected = 0.5 * double{x} * std::erfc(-double{x} / std::sqrt(2.0));
    // Rounding x / sqrt 2 moves erfc by x^2 times as much; then come erfc itself and two products.
    const double bound = (x * x + 4) * std::numeric_limits<float>::epsilon() * std::abs(expected);
    EXPECT_NEAR(Gelu(x), expected, bound) << x;
  }
}

TEST(ReferenceMath, DotIsCloseForAnyLength) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int n = 0; n < 70; ++n) {
    std::vector<float> a(n), b(n);
    double expected = 0, scale = 0;
    for (int i = 0; i < n; ++i) {
      a[i] = normal(random);
      b[i] = normal(random);
      expected += double{a[i]} * b[i];
      scale += std::abs(double{a[i]} * b[i]);
    }
    EXPECT_NEAR(Dot(a.data(), b.data(), n), expected, scale * n * std::numeric_limits<float>::epsilon());
  }
}

// The softmax-weighted sum of `values` (rows, width), by blocks.
std::vector<float> ByBlocks(const std::vector<float>& scores, const std::vector<float>& values,
                            int32_t width) {
  BlockSoftmax softmax(width);
  softmax.Reset();
  for (size_t first = 0; first < scores.size(); first += kPageTokens) {
    const int32_t rows = static_cast<int32_t>(std::min<size_t>(kPageTokens, scores.size() - first));
    softmax.Merge(&scores[first], rows, &values[first * width], width);
  }
  std::vector<float> out(width);
  softmax.Finish(out.data());
  return out;
}

TEST(BlockSoftmax, EqualsTheWholeSoftmax) {
  std::mt19937 random(2);
  for (float spread : {0.1f, 10.0f, 1000.0f}) {
    for (int32_t rows : {1, 63, 64, 65, 200}) {
      std::normal_distribution<float> normal;
      std::vector<float> scores(rows), values(rows * 3);
      for (float& score : scores) score = spread * normal(random);
      for (float& value : values) value = normal(random);
      const double max = *std::max_element(scores.begin(), scores.end());
      double sum = 0, expected[3] = {};
      for (int32_t j = 0; j < rows; ++j) sum += std::exp(scores[j] - max);
      for (int32_t j = 0; j < rows; ++j) {
        for (int i = 0; i < 3; ++i) expected[i] += std::exp(scores[j] - max) / sum * values[j * 3 + i];
      }
      const std::vector<float> out = ByBlocks(scores, values, 3);
      for (int i = 0; i < 3; ++i) EXPECT_NEAR(out[i], expected[i], 1e-5) << spread << " " << rows;
    }
  }
}

TEST(BlockSoftmax, ABlockOfVerySmallScoresAddsNothing) {
  std::vector<float> scores(128, -1e30f), values(128, 7.0f);
  scores[70] = 0;
  values[70] = 3;
  EXPECT_EQ(ByBlocks(scores, values, 1)[0], 3.0f);
}

TEST(BlockSoftmax, NaNComesThrough) {
  std::vector<float> values(70, 1.0f);
  for (int32_t where : {0, 5, 64, 69}) {
    std::vector<float> scores(70, 0.5f);
    scores[where] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(ByBlocks(scores, values, 1)[0])) << where;
  }
}

TEST(ReferenceMath, RopeTurnsPairsAndKeepsTheirLength) {
  ModelShape shape;
  shape.width = 12;
  shape.heads = 2;
  const std::vector<float> theta = RopeFrequencies(shape);
  ASSERT_EQ(theta.size(), 3u);
  EXPECT_EQ(theta[0], 1.0f);
  EXPECT_FLOAT_EQ(theta[1], std::pow(10000.0, -2.0 / 6));
  std::vector<float> x = {1, 0, 1, 0, 1, 0, 0, 2, 0, 2, 0, 2};
  Rope(theta, 1000003, 12, x.data());
  for (int i = 0; i < 3; ++i) {
    const double angle = 1000003 * double{theta[i]};
    EXPECT_NEAR(x[2 * i], std::cos(angle), 1e-7);
    EXPECT_NEAR(x[2 * i + 1], std::sin(angle), 1e-7);
    EXPECT_NEAR(x[6 + 2 * i], -2 * std::sin(angle), 2e-7);
    EXPECT_NEAR(x[6 + 2 * i + 1], 2 * std::cos(angle), 2e-7);
  }
}

TEST(ReferenceMath, LayerNormOfAConstantRowIsTheShift) {
  const Norm norm = {{2, 2, 2}, {1, -1, 0}};
  const float x[] = {5, 5, 5};
  float y[3];
  LayerNorm(norm, 1e-5f, x, 3, y);
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[1], -1);
  EXPECT_EQ(y[2], 0);
}

}  // namespace
}  // namespace sessa::reference
