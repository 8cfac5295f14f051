// Rows that the host draws or scores: they get the logits of their own, however many a step has, and nothing
// is allocated for them while serving.
#include <cmath>

#include "gmock/gmock.h"
#include "kernels/half.h"
#include "tests/kernels/cuda/host_flow_fixture.h"

namespace sessa::cuda {
namespace {

float LogitAt(uint16_t row, int32_t token) { return static_cast<float>((31 * row + 7 * token) % 89) * 0.05f; }

class HostRowsTest : public HostFlowTest {
 protected:
  static constexpr int32_t kRows = 1024;

  // The logits of the pass's row r are LogitAt(r, .).
  void SetUp() override {
    fake_cuda::OnLaunch<NormParams>("NormKernel(sessa::cuda::NormParams)", [](const NormParams& p) {
      if (p.outputs == nullptr) return;  // of a layer
      for (int32_t i = 0; i < p.row_count; ++i) {
        static_cast<uint16_t*>(p.n)[i * p.pitch] = static_cast<uint16_t>(p.outputs[i].row);
      }
    });
    fake_cuda::OnLaunch<DecodeGemm, StoreEpilogueParams>(
        "StoreEpilogue", [](const DecodeGemm& gemm, const StoreEpilogueParams& epilogue) {
          for (int32_t i = 0; i < gemm.rows; ++i) {
            const uint16_t row = static_cast<const uint16_t*>(gemm.x)[i * gemm.pitch];
            for (int32_t n = 0; n < gemm.outputs; ++n) epilogue.out[i * epilogue.pitch + n] = LogitAt(row, n);
          }
        });
  }
  static OpsOptions ManyRows() {
    OpsOptions options = Options();
    options.max_rows = kRows;
    return options;
  }
  static OutputRow Scored(const SampleParams* params) {
    OutputRow output;
    output.params = params;
    output.target = 11;
    return output;
  }
  static OutputResult OnTheHost(uint16_t row, const OutputRow& output) {
    std::vector<float> logits;
    for (int32_t n = 0; n < Shape().vocab; ++n) logits.push_back(LogitAt(row, n));
    SampleScratch scratch;
    return SampleRow(logits, output, scratch);
  }
  static void ExpectSame(const OutputResult& actual, const OutputResult& expected) {
    EXPECT_EQ(actual.token, expected.token);
    EXPECT_EQ(actual.logprob, expected.logprob);
    EXPECT_EQ(actual.finite, expected.finite);
    ASSERT_EQ(actual.top.size(), expected.top.size());
    for (size_t i = 0; i < actual.top.size(); ++i) EXPECT_EQ(actual.top[i].token, expected.top[i].token);
  }
};

TEST_F(HostRowsTest, AStepMayHaveMoreOfThemThanThereIsRoomFor) {
  Start(ManyRows());
  ASSERT_LT(model_->ops().info().max_output_rows, 700) << "several slices, several fills of the room";
  SampleParams likely, penalty;
  likely.top_logprobs = 3;
  penalty.frequency_penalty = 0.5f;
  penalty.temperature = 0;
  TokenCounts counts = {{3, 2}};
  StepBatch batch = Decoders(5, 20);
  batch.outputs[1].params = batch.outputs[3].params = &penalty;
  batch.outputs[1].counts = batch.outputs[3].counts = &counts;
  AddPrompt(&batch, 1000, Scored(&likely), 700);
  const int32_t allocations = fake_cuda::PinnedAllocations() + fake_cuda::DeviceAllocations();
  for (int32_t round = 0; round < 3; ++round) {  // decode rows run eagerly, captured, replayed
    SCOPED_TRACE(round);
    const StepResult result = Step(batch).value();
    ASSERT_EQ(result.outputs.size(), 705u);
    for (const int32_t i : {1, 3}) ExpectSame(result.outputs[i], OnTheHost(i, batch.outputs[i]));
    for (const int32_t i : {0, 2, 4}) EXPECT_EQ(result.outputs[i].token, TokenAt(21 + i, Shape()));
    for (int32_t i = 5; i < 705; ++i) {
      SCOPED_TRACE(i);
      ExpectSame(result.outputs[i],
                 OnTheHost(static_cast<uint16_t>(batch.outputs[i].row - 5), batch.outputs[i]));
    }
    EXPECT_GT(result.host_seconds, 0);
  }
  EXPECT_EQ(fake_cuda::PinnedAllocations() + fake_cuda::DeviceAllocations(), allocations);
}

TEST_F(HostRowsTest, ATargetsOwnLogprobIsTheDevices) {
  Start(ManyRows());
  SampleParams own;
  own.top_logprobs = 0;
  StepBatch batch;
  AddPrompt(&batch, 40, Scored(&own), 20);
  const StepResult result = Step(batch).value();
  for (const OutputResult& output : result.outputs) {
    EXPECT_EQ(output.token, 11);
    EXPECT_EQ(output.logprob, -2.5f) << "what the stand-in's sampler says";
    EXPECT_TRUE(output.top.empty());
  }
}

TEST_F(HostRowsTest, AFaultWhileTheHostWaitsForRoomIsFinal) {
  Start(ManyRows());
  SampleParams likely;
  likely.top_logprobs = 1;
  StepBatch batch;
  AddPrompt(&batch, 1000, Scored(&likely), 700);
  fake_cuda::FailWaiting(cudaErrorIllegalAddress);
  const absl::Status fault = Step(batch).status();
  EXPECT_EQ(fault.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Step(batch).status(), fault);
}

// The largest page tables that the pages allow, of every session of a step.
TEST_F(HostRowsTest, NoStepAllocates) {
  Start();
  const int32_t allocations = fake_cuda::PinnedAllocations() + fake_cuda::DeviceAllocations();
  static const SampleParams plain;
  std::vector<PageId> all(kPages);
  for (int32_t i = 0; i < kPages; ++i) all[i] = i;
  const StepBatch batch =
      DecodeBatch(std::vector<int32_t>(8, 5), std::vector<int64_t>(8, kPages * kPageTokens - 1),
                  std::vector<std::vector<PageId>>(8, all), {0, 1, 2, 3, 4, 5, 6, 7},
                  std::vector<const SampleParams*>(8, &plain));
  EXPECT_TRUE(Step(batch).ok());
  EXPECT_EQ(fake_cuda::PinnedAllocations() + fake_cuda::DeviceAllocations(), allocations);
}

}  // namespace
}  // namespace sessa::cuda
