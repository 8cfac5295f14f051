#include "kernels/reference/reference_ops.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/half.h"
#include "runtime/model.h"
#include "runtime/step_batch_builder.h"
#include "tests/kernels/company.h"
#include "tests/kernels/dense_model.h"
#include "tools/compare.h"
#include "tools/random_weights.h"
#include "tools/sequence.h"

namespace sessa {
namespace {

struct ShapeCase {
  std::string name;
  ModelShape shape;
};

// A base shape, then one thing changed a row.
std::vector<ShapeCase> ShapeCases() {
  ModelShape base;
  base.vocab = 97;
  base.width = 64;
  base.layers = 2;
  base.heads = 4;
  base.kv_heads = 2;
  std::vector<ShapeCase> cases(7, ShapeCase{"base", base});
  cases[1].name = "odd_width";  // 72 = 4 heads of 18
  cases[1].shape.width = 72;
  cases[2].name = "one_head";
  cases[2].shape.heads = cases[2].shape.kv_heads = 1;
  cases[3].name = "one_kv_head";
  cases[3].shape.kv_heads = 1;
  cases[4].name = "no_rope";
  cases[4].shape.use_rope = false;
  cases[5].name = "tied_head";
  cases[5].shape.tied_head = true;
  cases[6].name = "narrow";  // heads of 2
  cases[6].shape.width = 6;
  cases[6].shape.heads = 3;
  cases[6].shape.kv_heads = 3;
  return cases;
}

std::vector<int32_t> Tokens(int32_t count, int32_t vocab) {
  std::vector<int32_t> tokens(count);
  for (int32_t i = 0; i < count; ++i) tokens[i] = (i * i + 5 * i + 3) % vocab;
  return tokens;
}

// A reference model with pages for `tokens` tokens in all.
struct Runner {
  Runner(const ModelShape& shape, const ModelTensors& tensors, StateDtype dtype, int32_t pages = 16)
      : model([&] {
          OpsOptions options;
          options.state_dtype = dtype;
          return CreateReferenceOps(shape, tensors, options).value();
        }()),
        arena(pages, dtype == StateDtype::kCompact ? 4 : 0) {
    EXPECT_TRUE(model.ops().AllocateState(pages, 4).ok());
  }
  Model model;
  StateArena arena;
};

class ReferenceOpsTest : public testing::TestWithParam<ShapeCase> {};
INSTANTIATE_TEST_SUITE_P(Shapes, ReferenceOpsTest, testing::ValuesIn(ShapeCases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(ReferenceOpsTest, AgreesWithDenseDoubleAtPageEdges) {
  const ModelShape& shape = GetParam().shape;
  const RandomWeights weights(shape, 7);
  Runner runner(shape, weights.tensors(), StateDtype::kF32);
  const std::vector<int32_t> tokens = Tokens(129, shape.vocab);
  const DenseResult dense = RunDense(shape, weights.tensors(), tokens);
  for (int32_t length : {1, 2, 63, 64, 65, 128, 129}) {
    SCOPED_TRACE(length);
    const auto prefix = absl::MakeConstSpan(tokens).subspan(0, length);
    const SequenceResult result = RunSequence(&runner.model, &runner.arena, prefix, {length}).value();
    const auto logits = absl::MakeConstSpan(dense.logits).subspan(0, int64_t{length} * shape.vocab);
    const RelativeError logit_error = Compare(result.logits, logits, shape.vocab);
    EXPECT_TRUE(kFloat32Tolerance.Accepts(logit_error)) << logit_error.tensor << " " << logit_error.row;
    for (int32_t layer = 0; layer < shape.layers; ++layer) {
      const auto s = absl::MakeConstSpan(dense.s[layer]).subspan(0, int64_t{length} * shape.width);
      const RelativeError error = Compare(result.planes[layer][3], s, shape.width);
      EXPECT_TRUE(kFloat32Tolerance.Accepts(error)) << "s of layer " << layer << ": " << error.tensor;
    }
  }
}

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
  Runner exact(shape, weights.tensors(), StateDtype::kF32),
      compact(shape, weights.tensors(), StateDtype::kCompact);
  const std::vector<int32_t> tokens = Tokens(200, shape.vocab);
  const SequenceResult a = RunSequence(&exact.model, &exact.arena, tokens, {200}).value();
  const SequenceResult b = RunSequence(&compact.model, &compact.arena, tokens, {150, 50}).value();
  const double error = Compare(b.logits, a.logits, shape.vocab).tensor;
  EXPECT_LT(error, 1e-2);
  EXPECT_GT(error, kFloat32Tolerance.tensor);  // rounding to bf16 must be seen
}

// One session that is stepped by hand.
StepResult Step(Runner* runner, PageTable* table, std::vector<int32_t> tokens, const SampleParams* params,
                int32_t out_slot = -1, int32_t token_slot = -1) {
  std::vector<PageCopy> copies;
  const int64_t start = table->tokens(), end = start + static_cast<int64_t>(tokens.size());
  EXPECT_TRUE(table->EnsureCapacity(end, &runner->arena, &copies));
  for (const PageCopy& copy : copies) {
    if (copy.kind == PageKind::kState) runner->model.ops().CopyPage(copy.from, copy.to);
    if (copy.kind == PageKind::kOpen) runner->model.ops().CopyOpenPage(copy.from, copy.to);
  }
  OutputRow output;
  output.row = static_cast<int32_t>(tokens.size()) - 1;
  output.position = end;
  output.slot = out_slot;
  output.params = params;
  StepBatch batch;
  StepBatchBuilder(&batch).Append(tokens, start, *table, {&output, 1}, token_slot);
  runner->model.Launch(batch);
  StepResult result = runner->model.Collect().value();
  table->Commit(end);
  return result;
}

SampleParams Greedy() {
  SampleParams params;
  params.temperature = 0;
  return params;
}

TEST(ReferenceOps, TokenSlotCarriesTheDrawnTokenToTheNextStep) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  const SampleParams greedy = Greedy();
  Runner runner(shape, weights.tensors(), StateDtype::kF32);
  PageTable by_slot, by_host;
  int32_t token = Step(&runner, &by_host, {1, 2, 3}, &greedy).outputs[0].token;
  EXPECT_EQ(Step(&runner, &by_slot, {1, 2, 3}, &greedy, /*out_slot=*/5).outputs[0].token, token);
  for (int i = 0; i < 5; ++i) {
    const int32_t next = Step(&runner, &by_host, {token}, &greedy).outputs[0].token;
    EXPECT_EQ(Step(&runner, &by_slot, {-1}, &greedy, 5, /*token_slot=*/5).outputs[0].token, next);
    token = next;
  }
  by_slot.Release(&runner.arena);
  by_host.Release(&runner.arena);
}

TEST(ReferenceOps, ForksGoTheirOwnWays) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  const SampleParams greedy = Greedy();
  for (StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    for (int32_t length : {63, 64, 65, 100}) {
      Runner runner(shape, weights.tensors(), dtype);
      const std::vector<int32_t> prefix = Tokens(length, shape.vocab);
      PageTable trunk, left_alone, right_alone;
      Step(&runner, &trunk, prefix, &greedy);
      PageTable fork = trunk.Fork(length, &runner.arena);
      ASSERT_EQ(fork.tokens(), length);
      for (PageTable* table : {&left_alone, &right_alone}) Step(&runner, table, prefix, &greedy);
      for (int32_t i = 0; i < 4; ++i) {
        Step(&runner, &trunk, {10 + i}, &greedy);
        const std::vector<float> left = runner.model.ops().ReadLogits(0).value();
        Step(&runner, &left_alone, {10 + i}, &greedy);
        EXPECT_EQ(runner.model.ops().ReadLogits(0).value(), left);
        Step(&runner, &fork, {50 + i}, &greedy);
        const std::vector<float> right = runner.model.ops().ReadLogits(0).value();
        Step(&runner, &right_alone, {50 + i}, &greedy);
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

TEST(ReferenceOps, CountsStateThatDoesNotFitFp16AndClampsIt) {
  ModelShape shape = ShapeCases()[2].shape;  // one head: f is the attention's output itself
  shape.layers = 1;
  ChangedWeights weights(shape);
  weights.Fill(&weights.tensors.layers[0].v_weight, 0);
  weights.Fill(&weights.tensors.layers[0].v_bias, -1e5f);
  Runner runner(shape, weights.tensors, StateDtype::kCompact);
  const SampleParams greedy = Greedy();
  PageTable table;
  EXPECT_EQ(Step(&runner, &table, {1}, &greedy).state_saturations, shape.width);
  std::vector<float> s(shape.width);
  ASSERT_TRUE(runner.model.ops().ReadState(table.pages()[0], 0, Plane::kS, 0, 1, s.data()).ok());
  EXPECT_THAT(s, testing::Each(-kMaxFP16));
  EXPECT_EQ(Step(&runner, &table, {1, 2, 3}, &greedy).state_saturations, 3 * shape.width);
  table.Release(&runner.arena);
}

TEST(ReferenceOps, NaNIsAResultOfItsOwnSessionOnly) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  ModelTensors tensors = weights.tensors();
  std::vector<uint16_t> embed(static_cast<const uint16_t*>(tensors.embed.data),
                              static_cast<const uint16_t*>(tensors.embed.data) + shape.vocab * shape.width);
  embed[9 * shape.width] = FloatToBF16(std::numeric_limits<float>::quiet_NaN());
  tensors.embed.data = embed.data();
  Runner runner(shape, tensors, StateDtype::kCompact);
  const SampleParams greedy = Greedy();
  PageTable sick, sound;
  EXPECT_FALSE(Step(&runner, &sick, {1, 9, 3}, &greedy).outputs[0].finite);
  EXPECT_FALSE(Step(&runner, &sick, {3}, &greedy).outputs[0].finite);  // it stays in the state
  EXPECT_TRUE(Step(&runner, &sound, {1, 8, 3}, &greedy).outputs[0].finite);
  sick.Release(&runner.arena);
  sound.Release(&runner.arena);
}

TEST(ReferenceOps, ReadsLogitsOfTheLastStepOnly) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  Runner runner(shape, weights.tensors(), StateDtype::kF32);
  const SampleParams greedy = Greedy();
  PageTable table;
  Step(&runner, &table, {1, 2}, &greedy);
  EXPECT_EQ(runner.model.ops().ReadLogits(0)->size(), shape.vocab);
  EXPECT_EQ(runner.model.ops().ReadLogits(1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(runner.model.ops().ReadLogits(-1).status().code(), absl::StatusCode::kInvalidArgument);
  table.Release(&runner.arena);
}

}  // namespace
}  // namespace sessa
