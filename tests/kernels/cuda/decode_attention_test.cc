// Both attentions of decode rows against float64: every kind of focus, lengths around the edges of pages,
// units, runs and sections, alone and in company, all ways in which the work is cut, padding. On the card the
// kernels run; where a stand-in for CUDA is linked, host_attention.cc does, which shows that the test's own
// figures are right.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "tests/kernels/cuda/decode_case.h"
#include "tests/kernels/cuda/quick.h"

namespace sessa::cuda {
namespace {

struct Case {
  const char* name;
  int32_t width, heads, kv_heads;
  StateDtype state = StateDtype::kCompact;
};

class DecodeAttention : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (NoCard()) GTEST_SKIP() << "needs an NVIDIA card";
    CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  }
  void TearDown() override {
    if (stream_ != nullptr) CheckCuda(cudaStreamDestroy(stream_), "a stream");
  }
  static ModelShape Shape() {
    ModelShape shape;
    shape.width = GetParam().width;
    shape.heads = GetParam().heads;
    shape.kv_heads = GetParam().kv_heads;
    shape.layers = 1;
    return shape;
  }
  void Launch(const AttentionParams& params, const DecodeCase& work) {
    const LaunchContext context{stream_, false};
    CheckCuda(work.attention().fast
                  ? LaunchDecodeAttention(params, work.attention(), work.multiprocessors(), context)
                  : LaunchGenericAttention(params, context),
              "attention");
    CheckCuda(cudaStreamSynchronize(stream_), "attention");
  }
  cudaStream_t stream_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(Shapes, DecodeAttention,
                         testing::Values(Case{"wide", 1024, 16, 4}, Case{"recall", 384, 6, 2},
                                         Case{"small", 64, 4, 2}, Case{"widest", 2048, 16, 4},
                                         Case{"one_head", 256, 1, 1}, Case{"all_keys", 512, 8, 8},
                                         Case{"odd", 90, 5, 1},
                                         Case{"float32_state", 64, 4, 2, StateDtype::kF32}),
                         [](const auto& info) { return std::string(info.param.name); });

// Around blocks, units (128), runs (512), sections (2,048), what few rows take as leaves (4,224), and long
// units.
std::vector<int32_t> Positions(int32_t width) {
  std::vector<int32_t> positions = {0, 1, 63, 64, 65, 127, 128, 129, 511, 512, 513, 2047, 2048, 2049};
  if (Quick()) return positions;
  positions.insert(positions.end(), {4223, 4224, 4225});
  if (width <= 384) positions.insert(positions.end(), {16383, 16384, 16385, 16640});
  return positions;
}

std::vector<int32_t> Count(int32_t rows) {
  std::vector<int32_t> all(rows);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

TEST_P(DecodeAttention, AgreesWithFloat64AloneAndTogether) {
  const std::vector<int32_t> positions = Positions(GetParam().width);
  const int32_t rows = static_cast<int32_t>(positions.size());
  for (const Focus focus : kFocuses) {
    if (Quick() && GetParam().width >= 512 && focus != Focus::kStride) continue;
    SCOPED_TRACE(Name(focus));
    DecodeCase work(Shape(), GetParam().state, positions, focus, 3);
    Launch(work.Prepare(Count(rows)), work);
    ASSERT_EQ(work.Check(), "");
    const std::vector<float> ctx = work.ctx(), o = work.o();
    const size_t bytes = GetParam().width * sizeof(float);
    for (int32_t r = 0; r < rows; ++r) {  // the same operations in the same order, whatever is in the batch
      Launch(work.Prepare({r}), work);
      ASSERT_EQ(std::memcmp(work.ctx().data(), &ctx[r * GetParam().width], bytes), 0) << positions[r];
      ASSERT_EQ(std::memcmp(work.o().data(), &o[r * GetParam().width], bytes), 0) << positions[r];
    }
  }
}

// So many rows that runs are dealt as a whole.
TEST_P(DecodeAttention, ManyRowsAreEachWhatOneIs) {
  const std::vector<int32_t> positions = {1000, 700, 2100, 3, 900};
  DecodeCase work(Shape(), GetParam().state, positions, Focus::kStride, 4);
  std::vector<int32_t> many;
  const int32_t count = Quick() ? 60 : 200;
  for (int32_t i = 0; i < count; ++i) many.push_back(i % 5);
  Launch(work.Prepare(Count(5)), work);
  ASSERT_EQ(work.Check(), "");
  const std::vector<float> ctx = work.ctx(), o = work.o();
  Launch(work.Prepare(many), work);
  const std::vector<float> all_ctx = work.ctx(), all_o = work.o();
  const int64_t d = GetParam().width;
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_EQ(std::memcmp(&all_ctx[i * d], &ctx[many[i] * d], d * sizeof(float)), 0) << i;
    ASSERT_EQ(std::memcmp(&all_o[i * d], &o[many[i] * d], d * sizeof(float)), 0) << i;
  }
}

}  // namespace
}  // namespace sessa::cuda
