#include "tools/compare.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace sessa {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(Compare, EqualTensorsHaveNoError) {
  const RelativeError error = Compare({1, 2, 3, 4}, {1, 2, 3, 4}, 2);
  EXPECT_EQ(error.tensor, 0);
  EXPECT_EQ(error.row, 0);
}

TEST(Compare, IsTheRatioOfNorms) {
  // Rows (3, 4) and (0, 12): the differences have the norms 1 and 0.6.
  const RelativeError error = Compare({3, 5, 0.6f, 12}, {3, 4, 0, 12}, 2);
  EXPECT_NEAR(error.tensor, std::sqrt(1.36 / 169), 1e-7);
  EXPECT_NEAR(error.row, 0.2, 1e-7);  // the worst row: 1 / 5
}

TEST(Compare, ARowThatShouldBeZeroMustBeZero) {
  EXPECT_EQ(Compare({0, 0, 1, 1}, {0, 0, 1, 1}, 2).row, 0);
  EXPECT_TRUE(std::isinf(Compare({0, 1e-9f, 1, 1}, {0, 0, 1, 1}, 2).row));
}

TEST(Compare, NaNIsNeverAccepted) {
  const Tolerance anything = {std::numeric_limits<double>::infinity(),
                              std::numeric_limits<double>::infinity()};
  EXPECT_TRUE(anything.Accepts(Compare({1, 2}, {3, 4}, 1)));
  EXPECT_FALSE(anything.Accepts(Compare({1, kNaN}, {1, 2}, 1)));
  RelativeError error = Compare({1, kNaN}, {1, 2}, 1);
  error.Include(Compare({1, 2}, {1, 2}, 1));
  EXPECT_FALSE(anything.Accepts(error));
}

TEST(Compare, ToleranceBoundsTensorAndRow) {
  const Tolerance tolerance = {0.1, 0.5};
  EXPECT_TRUE(tolerance.Accepts({0.1, 0.5}));
  EXPECT_FALSE(tolerance.Accepts({0.11, 0.5}));
  EXPECT_FALSE(tolerance.Accepts({0.1, 0.51}));
}

}  // namespace
}  // namespace sessa
