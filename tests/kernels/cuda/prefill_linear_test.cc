// The linear layers of prefill against float64, on some rows of every tile width: values, places, and nothing
// written beside them.
//
// Tolerances: a bf16 number has 8 significant bits, so rounding to nearest errs by at most 2^-8 of it; what
// is left is the float32 sum of K products of bf16 numbers, K 2^-24 of their absolute sum at worst, against
// which 1e-5 of the largest output of its kind is generous.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/cuda/prefill_linear.h"
#include "tests/kernels/cuda/prefill_fixture.h"
#include "tests/kernels/cuda/prefill_reference.h"

namespace sessa::cuda {
namespace {

constexpr double kRounded = 1.0 / 256, kSum = 1e-5;
constexpr int kBeside = 3;  // rows behind the last that must stay as they were

double FromBf16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

struct Shape {
  const char* name;
  int rows, width, heads, kv_heads;
  int head_width() const { return width / heads; }
  int kv() const { return kv_heads * head_width(); }
};

constexpr Shape kShapes[] = {{"OneRow", 1, 64, 8, 2},
                             {"OddWidth", 130, 200, 5, 5},
                             {"NarrowHeads", 300, 72, 9, 3},
                             {"BenchShapeFewRows", 200, 1024, 16, 4},
                             {"BenchShape", 2047, 1024, 16, 4}};

// x (rows, K) and weight (outputs, K) in bf16, bias, and y = x W^T + b in float64 for some rows.
class LinearCase {
 public:
  LinearCase(const Shape& shape, int outputs)
      : shape_(shape),
        outputs_(outputs),
        x_((shape.rows + kBeside) * int64_t{shape.width}),
        weight_((outputs + 16) * int64_t{shape.width}),
        bias_(outputs + 16) {
    DeviceArray<float> random(std::max(x_.size(), weight_.size()));
    FillNormal(random.get(), x_.size(), 1, 1, 0);
    ToBf16(x_.get(), random.get(), int64_t{shape.rows} * shape.width);
    FillNormal(random.get(), weight_.size(), 2, 1 / std::sqrt(static_cast<float>(shape.width)), 0);
    ToBf16(weight_.get(), random.get(), int64_t{outputs} * shape.width);
    FillNormal(bias_.get(), outputs, 3, 1, 0);
    x_host_ = x_.ToHost(), weight_host_ = weight_.ToHost(), bias_host_ = bias_.ToHost();
  }
  PrefillLinear linear() const { return {weight_.get(), x_.get(), outputs_, shape_.width, shape_.rows, 132}; }
  const float* bias() const { return bias_.get(); }
  std::vector<int> SomeRows() const {
    std::vector<int> rows;
    for (const int row : {0, 1, 7, 8, 63, 64, 127, 128, 1000, shape_.rows - 1}) {
      if (row < shape_.rows) rows.push_back(row);
    }
    return rows;
  }
  std::vector<double> Row(int row, bool biased = true) const {
    std::vector<double> y(outputs_);
    const uint16_t* x = x_host_.data() + int64_t{row} * shape_.width;
    for (int n = 0; n < outputs_; n++) {
      const uint16_t* w = weight_host_.data() + int64_t{n} * shape_.width;
      double sum = biased ? bias_host_[n] : 0;
      for (int i = 0; i < shape_.width; i++) sum += FromBf16(x[i]) * FromBf16(w[i]);
      y[n] = sum;
    }
    return y;
  }

 private:
  Shape shape_;
  int outputs_;
  DeviceArray<uint16_t> x_, weight_;
  DeviceArray<float> bias_;
  std::vector<uint16_t> x_host_, weight_host_;
  std::vector<float> bias_host_;
};

void ExpectNear(double got, double want, bool rounded, const std::string& what) {
  ASSERT_LE(std::abs(got - want), (rounded ? kRounded * std::abs(want) : 0) + 5 * kSum) << what;
}

// Elements from `first` on are as poisoned.
template <class T>
void ExpectUntouched(const std::vector<T>& values, int64_t first, const char* what) {
  const std::vector<char> poison(sizeof(T), static_cast<char>(0xff));
  for (size_t i = first; i < values.size(); i++) {
    ASSERT_EQ(std::memcmp(&values[i], poison.data(), sizeof(T)), 0) << what << " wrote behind its rows";
  }
}

std::string At(const Shape& shape, const char* what, int row, int n) {
  return std::string(shape.name) + ": " + what + ", row " + std::to_string(row) + ", column " +
         std::to_string(n);
}

class PrefillLinearLayers : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (NoCard()) GTEST_SKIP() << "needs an NVIDIA card";
  }
};

TEST_P(PrefillLinearLayers, In) {
  const Shape& shape = GetParam();
  const int D = shape.width;
  LinearCase work(shape, 2 * D);
  const int64_t size = (shape.rows + kBeside) * int64_t{D};
  DeviceArray<uint16_t> abar(size);
  DeviceArray<float> g(size);
  const InEpilogueParams output{work.bias(), abar.get(), g.get(), D, D};
  CheckCuda(LaunchPrefillLinear(work.linear(), output, nullptr), "W_in");
  const std::vector<uint16_t> abar_host = abar.ToHost();
  const std::vector<float> g_host = g.ToHost();
  for (const int row : work.SomeRows()) {
    const std::vector<double> y = work.Row(row);
    for (int n = 0; n < D; n++) {
      const double a = y[n], gelu = a / 2 * std::erfc(-a / std::sqrt(2.0));
      ExpectNear(FromBf16(abar_host[int64_t{row} * D + n]), gelu, true, At(shape, "abar", row, n));
      ExpectNear(g_host[int64_t{row} * D + n], y[D + n], false, At(shape, "g", row, n));
    }
  }
  ExpectUntouched(abar_host, int64_t{shape.rows} * D, "abar");
  ExpectUntouched(g_host, int64_t{shape.rows} * D, "g");
}

TEST_P(PrefillLinearLayers, Project) {
  const Shape& shape = GetParam();
  const int D = shape.width, kv = shape.kv(), d = shape.head_width(), outputs = 3 * D + 2 * kv + 1;
  constexpr int kStart = 37;  // the first row's position
  LinearCase work(shape, outputs);
  const int page_count = (kStart + shape.rows + kPageTokens - 1) / kPageTokens;
  std::vector<RowMeta> metas(shape.rows);
  std::vector<int32_t> page_numbers(page_count);
  for (int i = 0; i < shape.rows; i++) metas[i].position = kStart + i;
  for (int i = 0; i < page_count; i++) page_numbers[i] = page_count - 1 - i;
  std::vector<float2> angles((shape.rows) * int64_t{d / 2});
  for (size_t i = 0; i < angles.size(); i++) {
    angles[i].x = static_cast<float>(std::cos(0.1 * static_cast<double>(i % 1013)));
    angles[i].y = static_cast<float>(std::sin(0.1 * static_cast<double>(i % 1013)));
  }
  DeviceArray<RowMeta> rows(shape.rows);
  DeviceArray<int32_t> pages(page_count);
  DeviceArray<float2> rotation(static_cast<int64_t>(angles.size()));
  rows.FromHost(metas), pages.FromHost(page_numbers), rotation.FromHost(angles);
  const int64_t size = (shape.rows + kBeside) * int64_t{D};
  DeviceArray<uint16_t> q(size), qb(size);
  DeviceArray<float> gamma(shape.rows + kBeside);
  LayerState state = {};
  state.width = D, state.kv = kv;
  state.v = 2 * kPageTokens * kv, state.kb = 2 * state.v, state.page_bytes = state.kb + 2 * kPageTokens * D;
  DeviceArray<uint16_t> slab(page_count * state.page_bytes / 2);
  state.pages = reinterpret_cast<char*>(slab.get());
  const ProjectEpilogueParams output{work.bias(), rows.get(), pages.get(), rotation.get(), nullptr, nullptr,
                                     q.get(),     qb.get(),   gamma.get(), state,          0.9f,    d};
  CheckCuda(LaunchPrefillLinear(work.linear(), output, nullptr), "projections");
  const std::vector<uint16_t> q_host = q.ToHost(), qb_host = qb.ToHost(), slab_host = slab.ToHost();
  const std::vector<float> gamma_host = gamma.ToHost();
  for (const int row : work.SomeRows()) {
    std::vector<double> y = work.Row(row);
    for (int n = 0; n < D + kv; n += 2) {
      const float2 turn = angles[int64_t{row} * (d / 2) + n % d / 2];
      const double even = y[n], odd = y[n + 1];
      y[n] = even * turn.x - odd * turn.y, y[n + 1] = even * turn.y + odd * turn.x;
    }
    const int position = kStart + row;
    const uint16_t* page = slab_host.data() + page_numbers[position / kPageTokens] * state.page_bytes / 2;
    const int in_page = position % kPageTokens;
    for (int n = 0; n < outputs - 1; n++) {
      const int past_v = n - D - 2 * kv;
      const uint16_t bits = n < D        ? q_host[int64_t{row} * D + n]
                            : n < D + kv ? page[in_page * kv + n - D]
                            : past_v < 0 ? page[state.v / 2 + in_page * kv + n - D - kv]
                            : past_v < D ? qb_host[int64_t{row} * D + past_v]
                                         : page[state.kb / 2 + in_page * D + past_v - D];
      // A sum of two products with an angle's: twice the error.
      ASSERT_LE(std::abs(FromBf16(bits) - y[n]), kRounded * std::abs(y[n]) + 10 * kSum)
          << At(shape, "output", row, n);
    }
    ExpectNear(gamma_host[row], 0.9 * std::tanh(y[outputs - 1]), false, At(shape, "gamma", row, 0));
  }
  ExpectUntouched(q_host, int64_t{shape.rows} * D, "q");
  ExpectUntouched(qb_host, int64_t{shape.rows} * D, "qb");
  ExpectUntouched(gamma_host, shape.rows, "gamma");
  for (int position : {0, kStart - 1, kStart + shape.rows}) {  // rows of the pages that are nobody's
    if (position / kPageTokens >= page_count) continue;
    const uint16_t* page = slab_host.data() + page_numbers[position / kPageTokens] * state.page_bytes / 2;
    for (int n = 0; n < D; n++) {
      ASSERT_EQ(page[state.kb / 2 + position % kPageTokens * D + n], 0xffff) << At(shape, "kb", position, n);
    }
  }
}

TEST_P(PrefillLinearLayers, ResidualAndStore) {
  const Shape& shape = GetParam();
  const int D = shape.width;
  LinearCase work(shape, D);
  const int64_t size = (shape.rows + kBeside) * int64_t{D}, used = int64_t{shape.rows} * D;
  DeviceArray<float> x(size), f(size);
  FillNormal(x.get(), used, 4, 1, 0);
  const std::vector<float> before = x.ToHost();
  CheckCuda(LaunchPrefillLinear(work.linear(), ResidualEpilogueParams{work.bias(), x.get(), D}, nullptr),
            "W_out");
  CheckCuda(LaunchPrefillLinear(work.linear(), StoreEpilogueParams{f.get(), D}, nullptr), "W_o");
  const std::vector<float> after = x.ToHost(), stored = f.ToHost();
  for (const int row : work.SomeRows()) {
    const std::vector<double> y = work.Row(row, false), biased = work.Row(row);
    for (int n = 0; n < D; n++) {
      const int64_t at = int64_t{row} * D + n;
      ExpectNear(after[at], before[at] + biased[n], false, At(shape, "x", row, n));
      ExpectNear(stored[at], y[n], false, At(shape, "f", row, n));
    }
  }
  ExpectUntouched(after, used, "W_out");
  ExpectUntouched(stored, used, "W_o");
}

INSTANTIATE_TEST_SUITE_P(Shapes, PrefillLinearLayers, testing::ValuesIn(kShapes),
                         [](const testing::TestParamInfo<Shape>& info) { return info.param.name; });

}  // namespace
}  // namespace sessa::cuda
