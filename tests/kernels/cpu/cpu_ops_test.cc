// What is the CPU backend's own; what it shares with the reference is in host_backends_test.cc.
#include "kernels/cpu/cpu_ops.h"

#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/cpu/instruction_sets.h"
#include "tests/kernels/host_backend.h"
#include "tests/scarce_threads.h"
#include "tools/compare.h"
#include "tools/random_weights.h"
#include "tools/sequence.h"

namespace sessa {
namespace {

using cpu::InstructionSet;
using cpu::NamedSet;

class CpuOpsTest : public testing::TestWithParam<std::tuple<NamedSet, ShapeCase>> {
 protected:
  InstructionSet set() const { return std::get<0>(GetParam()).set; }
  const ModelShape& shape() const { return std::get<1>(GetParam()).shape; }
};
INSTANTIATE_TEST_SUITE_P(Shapes, CpuOpsTest,
                         testing::Combine(testing::ValuesIn(cpu::RunnableSets()),
                                          testing::ValuesIn(ShapeCases())),
                         [](const auto& info) {
                           return std::get<0>(info.param).name + "_" + std::get<1>(info.param).name;
                         });

TEST_P(CpuOpsTest, AgreesWithTheReferenceInCompactState) {
  const RandomWeights weights(shape(), 11);
  const OpsOptions options = HostOptions(StateDtype::kCompact);
  Runner fast(CreateCpuOpsWith(set(), shape(), weights.tensors(), options), StateDtype::kCompact);
  Runner reference(CreateReferenceOps(shape(), weights.tensors(), options), StateDtype::kCompact);
  const std::vector<int32_t> tokens = Tokens(200, shape().vocab);
  const SequenceResult a = RunSequence(&fast.model, &fast.arena, tokens, {150, 50}).value();
  const SequenceResult b = RunSequence(&reference.model, &reference.arena, tokens, {200}).value();
  EXPECT_LT(Compare(a.logits, b.logits, shape().vocab).tensor, 1e-2);
  for (int32_t layer = 0; layer < shape().layers; ++layer) {
    for (Plane plane : kPlanes) {
      const int32_t p = static_cast<int32_t>(plane), width = fast.model.ops().layout().PlaneWidth(plane);
      EXPECT_LT(Compare(a.planes[layer][p], b.planes[layer][p], width).tensor, 1e-2) << layer << " " << p;
    }
  }
}

TEST(CpuOps, TooManyThreadsAreAnErrorThatSaysHowManyThereWere) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  const ScarceThreads scarce(4);
  const absl::Status status =
      CreateCpuOps(shape, weights.tensors(), HostOptions(StateDtype::kCompact, 64)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr("cpu_threads is 64: only 5 of 64 threads could be had"));
}

TEST(CpuOps, SaysWhatWasChosenAndWhy) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  const auto describe = [&](InstructionSet set, const ModelTensors& tensors) {
    return CreateCpuOpsWith(set, shape, tensors, HostOptions(StateDtype::kCompact, 3))
        .value()
        ->info()
        .description;
  };
  EXPECT_EQ(describe(InstructionSet::kPortable, weights.tensors()),
            "cpu: portable, float32 weights: the CPU has no AVX512-BF16, compact state, 3 threads");
  ModelTensors mixed = weights.tensors();
  const std::vector<float> zeros(shape.width * shape.width);
  mixed.layers[1].w_out_weight = {DType::kF32, mixed.layers[1].w_out_weight.dims, zeros.data()};
  EXPECT_EQ(describe(InstructionSet::kPortable, mixed),
            "cpu: portable, float32 weights: the checkpoint is not bf16, compact state, 3 threads");
  if (cpu::DetectInstructionSet() == InstructionSet::kAvx512BF16) {
    EXPECT_EQ(
        describe(InstructionSet::kAvx512BF16, weights.tensors()),
        "cpu: AVX512-BF16, bf16 weights with float32 sums: the checkpoint is bf16, compact state, 3 threads");
  }
}

TEST(CpuOps, RefusesNoThreads) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  EXPECT_EQ(CreateCpuOps(shape, weights.tensors(), HostOptions(StateDtype::kF32, 0)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sessa
