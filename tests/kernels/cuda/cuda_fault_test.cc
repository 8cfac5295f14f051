// A device fault is final: it is reported by Collect, stays, and nothing aborts or hangs. The fault is real
// (an address that nobody owns) and spoils the process for CUDA, so this is a program of its own.
#include "gtest/gtest.h"
#include "tests/kernels/cuda/cuda_fixture.h"

namespace sessa {
namespace {

TEST(CudaFault, AnIllegalAddressIsFinal) {
  SKIP_WITHOUT_CUDA();
  const ModelShape shape = MakeShape(64, 2, 4, 2, 97);
  const RandomWeights weights(shape, 3);
  OpsOptions options;
  options.state_dtype = StateDtype::kCompact;
  options.max_rows = 64;
  options.max_segments = 4;
  Model model(MakeCuda(shape, weights.tensors(), options, 4));
  const SampleParams greedy;

  const StepBatch good = DecodeBatch({1}, {0}, {{0}}, {0}, {&greedy});
  model.Launch(good);
  ASSERT_TRUE(model.Collect().ok());

  const StepBatch bad = DecodeBatch({1}, {0}, {{1 << 28}}, {0}, {&greedy});
  model.Launch(bad);
  const absl::Status fault = model.Collect().status();
  ASSERT_FALSE(fault.ok());
  EXPECT_NE(std::string(fault.message()).find("illegal memory access"), std::string::npos) << fault;

  model.Launch(good);  // whatever comes later is told the same
  EXPECT_EQ(model.Collect().status(), fault);
  EXPECT_FALSE(model.ops().ReadState(0, 0, Plane::kS, 0, 1, std::vector<float>(64).data()).ok());
}

}  // namespace
}  // namespace sessa
