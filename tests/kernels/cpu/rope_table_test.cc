#include "kernels/cpu/rope_table.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace sessa::cpu {
namespace {

TEST(RopeTable, IsTheRoundedCosineAndSineOfTheWholeAngle) {
  for (int32_t head_width : {2, 18, 64}) {
    ModelShape shape;
    shape.width = 2 * head_width;
    shape.heads = 2;
    RopeTable table(shape);
    table.Reserve(1'000'000);
    std::vector<float> row(2 * table.row_width());
    for (int64_t position : {0, 1, 63, 64, 65, 1100, 65'535, 1'000'000}) {
      table.Fill(position, row.data());
      for (int32_t i = 0; i < table.row_width(); ++i) {
        const int32_t place = i % head_width;
        const float theta = static_cast<float>(std::pow(shape.rope_theta, -(place / 2 * 2.0) / head_width));
        const double angle = static_cast<double>(position) * theta;
        // Half a unit in the last place of a number below 1, and some of what the double angle itself is
        // worth.
        const double tolerance = 0x1p-25 + 1e-15 * static_cast<double>(position + 1);
        EXPECT_NEAR(row[i], std::cos(angle), tolerance) << position << " " << i;
        EXPECT_NEAR(row[table.row_width() + i], (place % 2 == 0 ? -1 : 1) * std::sin(angle), tolerance);
      }
    }
  }
}

}  // namespace
}  // namespace sessa::cpu
