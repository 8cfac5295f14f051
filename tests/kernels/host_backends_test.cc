// What every host backend must do: the reference, and the CPU backend with every instruction set of this
// machine.
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/half.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/cpu/instruction_sets.h"
#include "tests/kernels/dense_model.h"
#include "tests/kernels/host_backend.h"
#include "tests/kernels/mixed_step.h"
#include "tools/compare.h"
#include "tools/random_weights.h"
#include "tools/sequence.h"

namespace sessa {
namespace {

struct Backend {
  std::string name;
  std::function<absl::StatusOr<std::unique_ptr<Ops>>(const ModelShape&, const ModelTensors&,
                                                     const OpsOptions&)>
      create;
  Tolerance tolerance;  // of float32 state against float64
};

std::vector<Backend> Backends() {
  std::vector<Backend> backends = {{"reference", CreateReferenceOps, kFloat32Tolerance}};
  for (const cpu::NamedSet& named : cpu::RunnableSets()) {
    // bf16 operands, some ten products in a row: each rounds by 2^-9.
    const bool bf16 = cpu::KernelsFor(named.set, true).bf16;
    backends.push_back(
        {"cpu_" + named.name,
         [set = named.set](const ModelShape& shape, const ModelTensors& tensors, const OpsOptions& options) {
           return CreateCpuOpsWith(set, shape, tensors, options);
         },
         bf16 ? Tolerance{1e-2, 3e-2} : kFloat32Tolerance});
  }
  return backends;
}

class HostBackend : public testing::TestWithParam<Backend> {
 protected:
  absl::StatusOr<std::unique_ptr<Ops>> Make(const ModelShape& shape, const ModelTensors& tensors,
                                            StateDtype dtype) const {
    return GetParam().create(shape, tensors, HostOptions(dtype));
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, HostBackend, testing::ValuesIn(Backends()),
                         [](const auto& info) { return info.param.name; });

class HostBackendShapes : public testing::TestWithParam<std::tuple<Backend, ShapeCase>> {
 protected:
  const Backend& backend() const { return std::get<0>(GetParam()); }
  const ModelShape& shape() const { return std::get<1>(GetParam()).shape; }
  absl::StatusOr<std::unique_ptr<Ops>> Make(const ModelShape& shape, const ModelTensors& tensors,
                                            StateDtype dtype) const {
    return backend().create(shape, tensors, HostOptions(dtype));
  }
};
INSTANTIATE_TEST_SUITE_P(Shapes, HostBackendShapes,
                         testing::Combine(testing::ValuesIn(Backends()), testing::ValuesIn(ShapeCases())),
                         [](const auto& info) {
                           return std::get<0>(info.param).name + "_" + std::get<1>(info.param).name;
                         });

TEST_P(HostBackendShapes, AgreesWithDenseDoubleAtPageEdges) {
  const RandomWeights weights(shape(), 7);
  Runner runner(Make(shape(), weights.tensors(), StateDtype::kF32), StateDtype::kF32);
  const Tolerance tolerance = backend().tolerance;
  const std::vector<int32_t> tokens = Tokens(129, shape().vocab);
  const DenseResult dense = RunDense(shape(), weights.tensors(), tokens);
  for (int32_t length : {1, 2, 63, 64, 65, 128, 129}) {
    SCOPED_TRACE(length);
    const auto prefix = absl::MakeConstSpan(tokens).subspan(0, length);
    const SequenceResult result = RunSequence(&runner.model, &runner.arena, prefix, {length}).value();
    const auto logits = absl::MakeConstSpan(dense.logits).subspan(0, int64_t{length} * shape().vocab);
    const RelativeError logit_error = Compare(result.logits, logits, shape().vocab);
    EXPECT_TRUE(tolerance.Accepts(logit_error)) << logit_error.tensor << " " << logit_error.row;
    for (int32_t layer = 0; layer < shape().layers; ++layer) {
      const auto s = absl::MakeConstSpan(dense.s[layer]).subspan(0, int64_t{length} * shape().width);
      const RelativeError error = Compare(result.planes[layer][3], s, shape().width);
      EXPECT_TRUE(tolerance.Accepts(error))
          << "s of layer " << layer << ": " << error.tensor << " " << error.row;
    }
  }
}

TEST_P(HostBackendShapes, TokenSlotCarriesTheDrawnTokenToTheNextStep) {
  const RandomWeights weights(shape(), 3);
  Runner runner(Make(shape(), weights.tensors(), StateDtype::kF32), StateDtype::kF32);
  PageTable by_slot, by_host;
  int32_t token = Step(&runner, &by_host, {1, 2, 3}).outputs[0].token;
  EXPECT_EQ(Step(&runner, &by_slot, {1, 2, 3}, /*out_slot=*/5).outputs[0].token, token);
  for (int i = 0; i < 5; ++i) {
    const int32_t next = Step(&runner, &by_host, {token}).outputs[0].token;
    EXPECT_EQ(Step(&runner, &by_slot, {-1}, 5, /*token_slot=*/5).outputs[0].token, next);
    token = next;
  }
  by_slot.Release(&runner.arena);
  by_host.Release(&runner.arena);
}

TEST_P(HostBackend, DecodesAndReadsAPromptInOneStep) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 7);
  for (const StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    for (const int32_t decoders : {1, 2, 3, 9}) {
      for (const int32_t chunk : {2, 59, 200}) {
        EXPECT_EQ(MixedStepDifference(Make(shape, weights.tensors(), dtype).value(), decoders, chunk, chunk),
                  "")
            << decoders << " decoders, " << chunk;
      }
    }
  }
}

TEST_P(HostBackend, ForksGoTheirOwnWays) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  for (StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    for (int32_t length : {63, 64, 65, 100}) {
      Runner runner(Make(shape, weights.tensors(), dtype), dtype);
      const std::vector<int32_t> prefix = Tokens(length, shape.vocab);
      PageTable trunk, left_alone, right_alone;
      Step(&runner, &trunk, prefix);
      PageTable fork = trunk.Fork(length, &runner.arena);
      ASSERT_EQ(fork.tokens(), length);
      for (PageTable* table : {&left_alone, &right_alone}) Step(&runner, table, prefix);
      for (int32_t i = 0; i < 4; ++i) {
        Step(&runner, &trunk, {10 + i});
        const std::vector<float> left = runner.model.ops().ReadLogits(0).value();
        Step(&runner, &left_alone, {10 + i});
        EXPECT_EQ(runner.model.ops().ReadLogits(0).value(), left);
        Step(&runner, &fork, {50 + i});
        const std::vector<float> right = runner.model.ops().ReadLogits(0).value();
        Step(&runner, &right_alone, {50 + i});
        EXPECT_EQ(runner.model.ops().ReadLogits(0).value(), right);
      }
      for (PageTable* table : {&trunk, &fork, &left_alone, &right_alone}) table->Release(&runner.arena);
      EXPECT_EQ(runner.arena.used(PageKind::kState), 0);
      EXPECT_EQ(runner.arena.used(PageKind::kOpen), 0);
    }
  }
}

// Weights in float32 that a test may change.
struct ChangedWeights {
  explicit ChangedWeights(const ModelShape& shape) : base(shape, 3), tensors(base.tensors()) {}
  // Replaces the tensor by a constant.
  void Fill(TensorView* tensor, float value) {
    int64_t count = 1;
    for (int64_t dim : tensor->dims) count *= dim;
    storage.push_back(std::make_unique<std::vector<float>>(count, value));
    *tensor = {DType::kF32, tensor->dims, storage.back()->data()};
  }
  RandomWeights base;
  ModelTensors tensors;
  std::vector<std::unique_ptr<std::vector<float>>> storage;
};

TEST_P(HostBackend, CountsStateThatDoesNotFitFp16AndClampsIt) {
  ModelShape shape = ShapeCases()[2].shape;  // one head: f is the attention's output itself
  shape.layers = 1;
  ChangedWeights weights(shape);
  weights.Fill(&weights.tensors.layers[0].v_weight, 0);
  weights.Fill(&weights.tensors.layers[0].v_bias, -1e5f);
  Runner runner(Make(shape, weights.tensors, StateDtype::kCompact), StateDtype::kCompact);
  PageTable table;
  EXPECT_EQ(Step(&runner, &table, {1}).state_saturations, shape.width);
  std::vector<float> s(shape.width);
  ASSERT_TRUE(runner.model.ops().ReadState(table.pages()[0], 0, Plane::kS, 0, 1, s.data()).ok());
  EXPECT_THAT(s, testing::Each(-kMaxFP16));
  EXPECT_EQ(Step(&runner, &table, {1, 2, 3}).state_saturations, 3 * shape.width);
  table.Release(&runner.arena);
}

// Also not of the session that gets its pages afterwards.
TEST_P(HostBackend, NaNIsAResultOfItsOwnSessionOnly) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  ModelTensors tensors = weights.tensors();
  const auto* numbers = static_cast<const uint16_t*>(tensors.embed.data);
  std::vector<uint16_t> embed(numbers, numbers + shape.vocab * shape.width);
  embed[9 * shape.width] = 0x7fc0;  // NaN
  tensors.embed.data = embed.data();
  for (StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    Runner runner(Make(shape, tensors, dtype), dtype);
    PageTable sick, sound, later;
    EXPECT_FALSE(Step(&runner, &sick, {1, 9, 3}).outputs[0].finite);
    EXPECT_FALSE(Step(&runner, &sick, {3}).outputs[0].finite);  // it stays in the state
    EXPECT_TRUE(Step(&runner, &sound, {1, 8, 3}).outputs[0].finite);
    const std::vector<float> logits = runner.model.ops().ReadLogits(0).value();
    Step(&runner, &sick, std::vector<int32_t>(100, 9));
    sick.Release(&runner.arena);
    EXPECT_TRUE(Step(&runner, &later, {1, 8, 3}).outputs[0].finite);
    EXPECT_EQ(runner.model.ops().ReadLogits(0).value(), logits);
    EXPECT_TRUE(Step(&runner, &later, {5}).outputs[0].finite);
    sound.Release(&runner.arena);
    later.Release(&runner.arena);
  }
}

TEST_P(HostBackend, ReadsLogitsOfTheLastStepOnly) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  Runner runner(Make(shape, weights.tensors(), StateDtype::kF32), StateDtype::kF32);
  PageTable table;
  Step(&runner, &table, {1, 2});
  EXPECT_EQ(runner.model.ops().ReadLogits(0)->size(), shape.vocab);
  EXPECT_EQ(runner.model.ops().ReadLogits(1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(runner.model.ops().ReadLogits(-1).status().code(), absl::StatusCode::kInvalidArgument);

  // More outputs than a slice holds are all drawn, but their logits are not kept.
  SampleParams greedy;
  greedy.temperature = 0;
  const int32_t rows = runner.model.ops().info().max_output_rows + 1;
  const std::vector<int32_t> tokens = Tokens(rows, shape.vocab);
  PageTable wide;
  std::vector<PageCopy> copies;
  ASSERT_TRUE(wide.EnsureCapacity(rows, &runner.arena, &copies));
  std::vector<OutputRow> outputs(rows);
  for (int32_t i = 0; i < rows; ++i) {
    outputs[i].row = i;
    outputs[i].params = &greedy;
  }
  StepBatch batch;
  StepBatchBuilder(&batch).Append(tokens, 0, wide, outputs);
  runner.model.Launch(batch);
  EXPECT_EQ(runner.model.Collect()->outputs.size(), rows);
  wide.Commit(rows);
  EXPECT_EQ(runner.model.ops().ReadLogits(0).status().code(), absl::StatusCode::kInvalidArgument);
  wide.Release(&runner.arena);
  table.Release(&runner.arena);
}

}  // namespace
}  // namespace sessa
