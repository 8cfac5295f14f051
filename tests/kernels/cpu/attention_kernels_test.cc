// The attention kernels, on every instruction set that this machine has, against double precision.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernels.h"
#include "kernels/half.h"
#include "tests/kernels/cpu/instruction_sets.h"

namespace sessa::cpu {
namespace {

constexpr double kEps = 0x1p-24;

// Random numbers as they lie in memory, and as float32.
struct Numbers {
  enum class Form { kF32, kBF16, kFP16 };
  Numbers(int64_t count, Form form, uint32_t seed) : exact(count), halves(count) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) {
      exact[i] = normal(random);
      if (form == Form::kF32) continue;
      halves[i] = form == Form::kBF16 ? FloatToBF16(exact[i]) : FloatToFP16(exact[i]);
      exact[i] = form == Form::kBF16 ? BF16ToFloat(halves[i]) : FP16ToFloat(halves[i]);
    }
    data = form == Form::kF32 ? static_cast<const void*>(exact.data()) : halves.data();
  }
  std::vector<float> exact;
  std::vector<uint16_t> halves;
  const void* data;
};

class CpuAttentionKernelsTest : public testing::TestWithParam<NamedSet> {
 protected:
  const Kernels& kernels() const { return BF16ModelKernels(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Sets, CpuAttentionKernelsTest, testing::ValuesIn(RunnableSets()),
                         [](const auto& info) { return SetName(info.param); });

TEST_P(CpuAttentionKernelsTest, ScoresAreExactToRoundingAndRowsIndependent) {
  std::vector<Keys> forms = {Keys::kF32, Keys::kBF16};
  if (kernels().bf16) forms.push_back(Keys::kBF16Dot);
  constexpr int32_t kRows = 9;
  for (Keys keys : forms) {
    for (int32_t width : {1, 2, 18, 32, 64, 72, 384}) {
      const int32_t q_stride = width + 3, k_stride = width + 6;
      const Numbers q(kRows * q_stride, keys == Keys::kBF16Dot ? Numbers::Form::kBF16 : Numbers::Form::kF32,
                      width);
      const Numbers k(kBlock * k_stride, keys == Keys::kF32 ? Numbers::Form::kF32 : Numbers::Form::kBF16, 7);
      std::vector<float> scores(kRows * kBlock), alone(kRows * kBlock);
      kernels().score({keys, q.data, q_stride, kRows, k.data, k_stride, kBlock, width, scores.data()});
      for (int32_t r = 0; r < kRows; ++r) {
        const auto* row =
            static_cast<const std::byte*>(q.data) + r * q_stride * (keys == Keys::kBF16Dot ? 2 : 4);
        kernels().score({keys, row, q_stride, 1, k.data, k_stride, 37, width, &alone[r * kBlock]});
        for (int32_t j = 0; j < kBlock; ++j) {
          double sum = 0, size = 0;
          for (int32_t i = 0; i < width; ++i) {
            const double term = double{q.exact[r * q_stride + i]} * k.exact[j * k_stride + i];
            sum += term;
            size += std::fabs(term);
          }
          EXPECT_NEAR(scores[r * kBlock + j], sum, (width + 4) * kEps * size)
              << width << " " << r << " " << j;
          if (j >= 37) continue;
          EXPECT_EQ(scores[r * kBlock + j], alone[r * kBlock + j]);
        }
      }
    }
  }
}

// Rows over three blocks, the last seen triangularly as `valid`, `step` say: scores (rows, 3, 64), v (3 * 64,
// columns).
std::vector<float> RunBlocks(const Kernels& kernels, Values values, const std::vector<float>& scores,
                             int32_t first_row, int32_t rows, int32_t valid, int32_t step, const Numbers& v,
                             int32_t columns) {
  std::vector<float> m(rows, -std::numeric_limits<float>::infinity()), l(rows), scale(rows), p(rows * kBlock);
  std::vector<float> acc(rows * columns), out(rows * columns);
  for (int32_t block = 0; block < 3; ++block) {
    for (int32_t r = 0; r < rows; ++r) {
      std::copy_n(&scores[((first_row + r) * 3 + block) * kBlock], kBlock, &p[r * kBlock]);
    }
    const int32_t seen = block < 2 ? kBlock : valid, seen_step = block < 2 ? 0 : step;
    kernels.softmax({p.data(), rows, seen, seen_step, m.data(), l.data(), scale.data()});
    const auto* block_v = static_cast<const std::byte*>(v.data) +
                          int64_t{block} * kBlock * columns * (values == Values::kF32 ? 4 : 2);
    kernels.accumulate({values, p.data(), scale.data(), rows, seen, seen_step, block_v, columns, columns,
                        acc.data(), columns});
  }
  kernels.normalize({acc.data(), columns, l.data(), rows, columns, out.data(), columns, true});
  return out;
}

TEST_P(CpuAttentionKernelsTest, BlocksAddUpToSoftmaxAndRowsAreIndependent) {
  constexpr int32_t kRows = 17,
                    kFirstValid = -3;  // rows that see none of the last block, some, and (by then) more
  for (Values values : {Values::kF32, Values::kBF16, Values::kFP16}) {
    const auto form = values == Values::kF32    ? Numbers::Form::kF32
                      : values == Values::kBF16 ? Numbers::Form::kBF16
                                                : Numbers::Form::kFP16;
    for (int32_t columns : {1, 16, 18, 64, 72, 400}) {
      const Numbers scores(kRows * 3 * kBlock, Numbers::Form::kF32, columns),
          v(3 * kBlock * columns, form, 5);
      const std::vector<float> out =
          RunBlocks(kernels(), values, scores.exact, 0, kRows, kFirstValid, 4, v, columns);
      for (int32_t r = 0; r < kRows; ++r) {
        const int32_t valid = std::clamp(kFirstValid + 4 * r, 0, kBlock), tokens = 2 * kBlock + valid;
        const std::vector<float> alone =
            RunBlocks(kernels(), values, scores.exact, r, 1, valid, 0, v, columns);
        std::vector<double> p(tokens);
        double sum = 0;
        for (int32_t j = 0; j < tokens; ++j)
          sum += p[j] = std::exp2(double{scores.exact[r * 3 * kBlock + j]});
        for (int32_t c = 0; c < columns; ++c) {
          double expected = 0, size = 0;
          for (int32_t j = 0; j < tokens; ++j) {
            expected += p[j] / sum * v.exact[j * columns + c];
            size += p[j] / sum * std::fabs(v.exact[j * columns + c]);
          }
          // One rounding a token in the sum and in the denominator, and a few in each exponential.
          EXPECT_NEAR(out[r * columns + c], expected, (2 * tokens + 16) * kEps * size) << columns << " " << r;
          EXPECT_EQ(out[r * columns + c], alone[c]) << columns << " " << r << " " << c;
        }
      }
    }
  }
}

TEST_P(CpuAttentionKernelsTest, SoftmaxStandsExtremeScores) {
  constexpr float kHuge = 3e38f;
  std::vector<float> p(kBlock, -kHuge);
  p[3] = kHuge;
  p[9] = std::numeric_limits<float>::quiet_NaN();  // beyond what is valid: not to be seen
  float m = -std::numeric_limits<float>::infinity(), l = 0, scale = 5;
  kernels().softmax({p.data(), 1, 9, 0, &m, &l, &scale});
  EXPECT_EQ(m, kHuge);
  EXPECT_EQ(l, 1.0f);
  EXPECT_EQ(scale, 0.0f);
  for (int32_t j = 0; j < kBlock; ++j) EXPECT_EQ(p[j], j == 3 ? 1.0f : 0.0f) << j;

  p.assign(kBlock, 0.0f);
  p[2] = std::numeric_limits<float>::quiet_NaN();
  kernels().softmax({p.data(), 1, 9, 0, &m, &l, &scale});
  EXPECT_TRUE(std::isnan(l));  // a sick row shows
}

}  // namespace
}  // namespace sessa::cpu
