// What is the reference backend's own; what it shares with the CPU backend is in host_backends_test.cc.
#include "kernels/reference/reference_ops.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/company.h"
#include "tests/kernels/host_backend.h"
#include "tools/compare.h"
#include "tools/random_weights.h"
#include "tools/sequence.h"

namespace sessa {
namespace {

class ReferenceOpsTest : public testing::TestWithParam<ShapeCase> {};
INSTANTIATE_TEST_SUITE_P(Shapes, ReferenceOpsTest, testing::ValuesIn(ShapeCases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(ReferenceOpsTest, ResultsDoNotDependOnCompanyChunkingOrRecomputation) {
  CompanyOptions options;
  for (StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    options.state_dtype = dtype;
    for (uint32_t seed = 0; seed < 8; ++seed) {
      EXPECT_EQ(CompanyDifference(CreateReferenceOps, GetParam().shape, options, seed), "");
    }
  }
}

TEST_P(ReferenceOpsTest, CompactStateStaysCloseToFloat32) {
  const ModelShape& shape = GetParam().shape;
  const RandomWeights weights(shape, 11);
  const auto make = [&](StateDtype dtype) {
    return CreateReferenceOps(shape, weights.tensors(), HostOptions(dtype));
  };
  Runner exact(make(StateDtype::kF32), StateDtype::kF32);
  Runner compact(make(StateDtype::kCompact), StateDtype::kCompact);
  const std::vector<int32_t> tokens = Tokens(200, shape.vocab);
  const SequenceResult a = RunSequence(&exact.model, &exact.arena, tokens, {200}).value();
  const SequenceResult b = RunSequence(&compact.model, &compact.arena, tokens, {150, 50}).value();
  const double error = Compare(b.logits, a.logits, shape.vocab).tensor;
  EXPECT_LT(error, 1e-2);
  EXPECT_GT(error, kFloat32Tolerance.tensor);  // rounding to bf16 must be seen
}

}  // namespace
}  // namespace sessa
