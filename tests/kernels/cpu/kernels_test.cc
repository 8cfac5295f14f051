// The kernels around the matrix products, on every instruction set that this machine has, against double
// precision.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/weights.h"
#include "kernels/half.h"
#include "tests/kernels/cpu/instruction_sets.h"
#include "tools/random_weights.h"

namespace sessa::cpu {
namespace {

constexpr double kEps = 0x1p-24;     // of float32 rounding
constexpr double kEpsBF16 = 0x1p-8;  // of bf16 rounding

// Rows of numbers as an operand of the kernels; they are rounded to what the operand can hold.
class OperandRows {
 public:
  OperandRows(int32_t rows, int32_t width, bool bf16)
      : stride((width + 1) / 2 * 2), bf16_(bf16), bytes_(rows * stride * 4) {}
  void* data() { return bytes_.data(); }
  void* row(int32_t r) { return bytes_.data() + int64_t{r} * stride * (bf16_ ? 2 : 4); }
  float at(int32_t r, int32_t c) const {
    const int64_t i = int64_t{r} * stride + c;
    return bf16_ ? BF16ToFloat(reinterpret_cast<const uint16_t*>(bytes_.data())[i])
                 : reinterpret_cast<const float*>(bytes_.data())[i];
  }
  void set(int32_t r, int32_t c, float value) {
    const int64_t i = int64_t{r} * stride + c;
    if (bf16_) {
      reinterpret_cast<uint16_t*>(bytes_.data())[i] = FloatToBF16(value);
    } else {
      reinterpret_cast<float*>(bytes_.data())[i] = value;
    }
  }
  const int32_t stride;

 private:
  const bool bf16_;
  std::vector<std::byte> bytes_;
};

std::vector<float> Random(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& number : numbers) number = normal(random);
  return numbers;
}

class CpuKernelsTest : public testing::TestWithParam<NamedSet> {
 protected:
  const Kernels& kernels() const { return BF16ModelKernels(GetParam()); }
  double operand_eps() const { return kernels().bf16 ? kEpsBF16 : 0; }
};
INSTANTIATE_TEST_SUITE_P(Sets, CpuKernelsTest, testing::ValuesIn(RunnableSets()),
                         [](const auto& info) { return SetName(info.param); });

TEST_P(CpuKernelsTest, LayerNorm) {
  for (int32_t width : {2, 6, 16, 33, 72, 384}) {
    const std::vector<float> x = Random(3 * width, width), weight = Random(width, 1), bias = Random(width, 2);
    const int32_t ids[] = {2, 0};
    OperandRows out(2, width, kernels().bf16);
    kernels().layer_norm({x.data(), ids, width, weight.data(), bias.data(), 1e-5f, out.data(), out.stride}, 0,
                         2);
    for (int32_t r = 0; r < 2; ++r) {
      const float* row = &x[ids[r] * width];
      double mean = 0, variance = 0, size = 0;
      for (int32_t c = 0; c < width; ++c) mean += row[c] / double(width);
      for (int32_t c = 0; c < width; ++c) {
        variance += (row[c] - mean) * (row[c] - mean) / width;
        size += std::fabs(row[c]) / width;
      }
      const double scale = 1 / std::sqrt(variance + 1e-5);
      for (int32_t c = 0; c < width; ++c) {
        const double expected = (row[c] - mean) * scale * weight[c] + bias[c];
        // The mean is off by a few roundings of the mean size, the deviation and the scale by a few of their
        // own.
        const double spread =
            (std::fabs(row[c]) + size * 8) * scale * std::fabs(weight[c]) + std::fabs(bias[c]);
        EXPECT_NEAR(out.at(r, c), expected, 8 * kEps * spread + operand_eps() * std::fabs(expected)) << width;
      }
    }
  }
}

// abar of rows of one input each, with weights of one: GELU of the inputs.
TEST_P(CpuKernelsTest, GeluIsTheErfForm) {
  std::vector<float> inputs = {0.0f, -0.0f, 1e-30f, -1e-30f, 20.0f, -20.0f, 1e20f};
  for (float x = -13.0f; x <= 13.0f; x += 0.0093f) inputs.push_back(x);
  const int32_t rows = static_cast<int32_t>(inputs.size());
  OperandRows n(rows, 1, kernels().bf16), abar(rows, 1, kernels().bf16);
  for (int32_t r = 0; r < rows; ++r) n.set(r, 0, inputs[r]);
  std::vector<float> ones(2 * kPanelOutputs, 1.0f), zeros(kPanelOutputs), g(rows), gamma(rows);
  const std::vector<uint16_t> bf16_ones(2 * kPanelOutputs, FloatToBF16(1.0f));
  const void* weights = kernels().bf16 ? static_cast<const void*>(bf16_ones.data()) : ones.data();
  NormInArgs args{};
  args.n = n.data();
  args.n_stride = n.stride;
  args.w = {weights, zeros.data(), kernels().bf16 ? 2 : 1, 1, 0};
  args.width = 1;
  args.gamma_weight = ones.data();
  args.abar = abar.data();
  args.operand_stride = abar.stride;
  args.g = g.data();
  args.gamma_partial = gamma.data();
  args.gamma_panels = 1;
  kernels().norm_in(args, {0, rows, 0, 1});
  for (int32_t r = 0; r < rows; ++r) {
    const double x = n.at(r, 0), expected = x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    // The exponent -x^2/2 is rounded, which counts in the tail; all else is a few roundings.
    const double tolerance = (8 + 2 * x * x) * kEps * std::fabs(expected) + std::numeric_limits<float>::min();
    EXPECT_NEAR(abar.at(r, 0), expected, tolerance + operand_eps() * std::fabs(expected)) << "x = " << x;
    EXPECT_EQ(g[r], static_cast<float>(x));
  }
}

TEST_P(CpuKernelsTest, ProductsAreExactToRoundingAndRowsIndependent) {
  for (int32_t width : {2, 6, 18, 72, 130, 384}) {
    ModelShape shape;
    shape.vocab = 11;
    shape.width = width;
    shape.layers = 1;
    shape.heads = shape.kv_heads = 1;
    const RandomWeights random(shape, 5);
    const Weights weights = PackWeights(shape, random.tensors(), kernels().bf16);
    const auto* w = static_cast<const uint16_t*>(random.tensors().layers[0].w_out_weight.data);
    const auto* bias = static_cast<const uint16_t*>(random.tensors().layers[0].w_out_bias.data);
    constexpr int32_t kRows = 14;
    OperandRows u(kRows, width, kernels().bf16);
    const std::vector<float> numbers = Random(kRows * width, width);
    for (int32_t i = 0; i < kRows * width; ++i) u.set(i / width, i % width, numbers[i]);
    const Matrix& matrix = weights.layers[0].w_out.view;

    std::vector<float> x = Random(kRows * width, 9), before = x, alone = x;
    kernels().residual_out({u.data(), u.stride, matrix, width, x.data()}, {0, kRows, 0, matrix.panels});
    for (int32_t r = 0; r < kRows; ++r) {
      for (int32_t panel = 0; panel < matrix.panels; ++panel) {
        kernels().residual_out({u.data(), u.stride, matrix, width, alone.data()},
                               {r, r + 1, panel, panel + 1});
      }
      for (int32_t c = 0; c < width; ++c) {
        double sum = before[r * width + c] + double{BF16ToFloat(bias[c])}, size = std::fabs(sum);
        for (int32_t k = 0; k < width; ++k) {
          const double term = double{u.at(r, k)} * BF16ToFloat(w[c * width + k]);
          sum += term;
          size += std::fabs(term);
        }
        EXPECT_NEAR(x[r * width + c], sum, (width + 3) * kEps * size);
      }
    }
    EXPECT_EQ(x, alone) << width;
  }
}

// Decode rows of a model without W_o: s = f + gamma ctx and its forms in the pages.
TEST_P(CpuKernelsTest, FeedbackRoundsStateAsHalfDoes) {
  constexpr int32_t kWidth = 23;
  std::vector<float> f = Random(kWidth, 3);
  const float special[] = {0.0f,  -0.0f,  65504.0f, 65519.9f, -65520.0f, 1e30f,    -1e30f,
                           6e-8f, -3e-6f, 1e-10f,   6.1e-05f, 0.33325f,  INFINITY, -INFINITY};
  std::copy(std::begin(special), std::end(special), f.begin());
  const std::vector<float> g = Random(kWidth, 4), ctx(kWidth, 0.0f);
  const float gamma[] = {0.5f};
  std::vector<uint16_t> page(kBlock * kWidth, 7);
  std::vector<float> open(kBlock * kWidth, 7.0f);
  const RowState row[] = {
      {reinterpret_cast<std::byte*>(page.data()), open.data(), /*slot=*/2, /*decode=*/true}};
  OperandRows u(1, kWidth, kernels().bf16);
  FeedbackOutArgs args{};
  args.operand_stride = u.stride;
  args.width = kWidth;
  args.f = f.data();
  args.gamma = gamma;
  args.ctx = ctx.data();
  args.g = g.data();
  args.u = u.data();
  args.compact = true;
  args.rows = row;
  args.s_row_bytes = 2 * kWidth;
  EXPECT_EQ(kernels().feedback_out(args, {0, 1, 0, 1}), 5);
  std::vector<uint16_t> expected_page(page.size(), 7);
  std::vector<float> expected_open(open.size(), 7.0f);
  for (int32_t c = 0; c < kWidth; ++c) {
    expected_page[2 * kWidth + c] = FloatToFP16(f[c]);
    if (f[c] == 0) expected_page[2 * kWidth + c] = page[2 * kWidth + c];  // -0 + 0 may be either zero
    expected_open[2 * kWidth + c] = f[c];
    const double expected_u = double{f[c]} * g[c];
    if (!std::isfinite(f[c])) continue;
    EXPECT_NEAR(u.at(0, c), expected_u, (kEps + operand_eps()) * std::fabs(expected_u));
  }
  EXPECT_EQ(page, expected_page);
  EXPECT_EQ(open, expected_open);
}

}  // namespace
}  // namespace sessa::cpu
