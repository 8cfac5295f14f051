// What launchers ask the device for at the edges of the shapes that the backend takes.
#include <gtest/gtest.h>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/prefill_launch.h"
#include "tests/kernels/cuda/fake_cuda.h"

namespace sessa::cuda {
namespace {

constexpr int32_t kWidest = 12288;

class LaunchersTest : public testing::Test {
 protected:
  void SetUp() override {
    fake_cuda::Reset();
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
  }
  void TearDown() override {
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    fake_cuda::Reset();
  }
  cudaStream_t stream_ = nullptr;
};

TEST_F(LaunchersTest, GenericAttentionTakesTheWidestModel) {
  for (const int32_t width : {6, 12000, 12224, 12225, kWidest}) {
    AttentionParams params = {};
    params.row_count = 3;
    params.heads = params.kv_heads = 1;
    params.head_width = params.state.width = params.state.kv = width;
    EXPECT_EQ(LaunchGenericAttention(params, {stream_, false}), cudaSuccess) << width;
    EXPECT_EQ(fake_cuda::Launches().back().shared_bytes, 4 * width);
  }
}

TEST_F(LaunchersTest, PlainForwardTakesTheWidestHeads) {
  for (const StateDtype state : {StateDtype::kF32, StateDtype::kCompact}) {
    for (const auto& [heads, width] : {std::pair(1, 4096), std::pair(1, 4098), std::pair(2, 10000),
                                       std::pair(1, 6144), std::pair(2, kWidest), std::pair(1, kWidest)}) {
      StateLayout layout;
      layout.dtype = state;
      layout.shape.width = width;
      layout.shape.layers = 1;
      layout.shape.heads = layout.shape.kv_heads = heads;
      PrefillPlan plan;
      plan.segments.resize(1);
      plan.segments[0].rows = 5;
      PrefillContext context;
      context.plan = &plan;
      context.state.layout = &layout;
      EXPECT_EQ(LaunchPlainForward(context, {}, stream_), cudaSuccess) << heads << " heads, " << width;
      EXPECT_EQ(fake_cuda::Launches().back().shared_bytes, 8 * width / heads);
    }
  }
}

}  // namespace
}  // namespace sessa::cuda
