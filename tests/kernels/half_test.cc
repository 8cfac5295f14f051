#include "kernels/half.h"

#include <cmath>
#include <limits>
#include <random>

#include "gtest/gtest.h"

namespace sessa {
namespace {

TEST(Half, EveryBF16ComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = BF16ToFloat(bits);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(BF16ToFloat(FloatToBF16(value))));
    } else {
      EXPECT_EQ(FloatToBF16(value), bits);
    }
  }
}

TEST(Half, EveryFiniteFP16ComesBackAndHasItsValue) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = FP16ToFloat(bits);
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    if (exponent == 31) {
      EXPECT_TRUE(mantissa == 0 ? std::isinf(value) : std::isnan(value));
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    EXPECT_EQ(value, bits & 0x8000 ? -magnitude : magnitude);
    EXPECT_EQ(FloatToFP16(value), bits);
  }
}

// `bits` must be the nearest of its neighbours, and even when two are equally near.
template <typename ToFloat>
void ExpectNearest(float value, uint16_t bits, ToFloat to_float) {
  const double error = std::abs(double{value} - to_float(bits));
  for (int step : {-1, 1}) {
    const uint16_t neighbour = static_cast<uint16_t>(bits + step);
    const float other = to_float(neighbour);
    if (!std::isfinite(other) || (other < 0) != (value < 0)) continue;
    const double other_error = std::abs(double{value} - other);
    EXPECT_LE(error, other_error) << value;
    if (error == other_error) {
      EXPECT_EQ(bits & 1, 0) << value;
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isfinite(value)) continue;
    if (std::abs(value) < 3e38f) ExpectNearest(value, FloatToBF16(value), BF16ToFloat);
    int exponent;
    const float small = std::ldexp(std::frexp(value, &exponent), static_cast<int>(random() % 42) - 26);
    if (!SaturatesFP16(small)) ExpectNearest(small, FloatToFP16(small), FP16ToFloat);
  }
  // Ties, at normal and subnormal numbers.
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const float tie = (FP16ToFloat(bits) + FP16ToFloat(bits + 1)) / 2;  // exact in float32
    EXPECT_EQ(FloatToFP16(tie), bits & 1 ? bits + 1 : bits);
  }
}

TEST(Half, FP16SaturatesAndNaNStaysNaN) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (float value : {65520.0f, 1e10f, infinity}) {
    EXPECT_TRUE(SaturatesFP16(value));
    EXPECT_EQ(FP16ToFloat(FloatToFP16(value)), kMaxFP16);
    EXPECT_TRUE(SaturatesFP16(-value));
    EXPECT_EQ(FP16ToFloat(FloatToFP16(-value)), -kMaxFP16);
  }
  EXPECT_FALSE(SaturatesFP16(65519.0f));
  EXPECT_EQ(FP16ToFloat(FloatToFP16(65519.0f)), kMaxFP16);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(SaturatesFP16(nan));
  EXPECT_TRUE(std::isnan(FP16ToFloat(FloatToFP16(nan))));
  EXPECT_TRUE(std::isnan(BF16ToFloat(FloatToBF16(nan))));
}

}  // namespace
}  // namespace sessa
