// The CPU backend as a whole, with every instruction set that this machine has.
#include "kernels/cpu/cpu_ops.h"

#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference_ops.h"
#include "runtime/model.h"
#include "runtime/step_batch_builder.h"
#include "tests/kernels/cpu/instruction_sets.h"
#include "tests/kernels/dense_model.h"
#include "tools/compare.h"
#include "tools/random_weights.h"
#include "tools/sequence.h"

namespace sessa {
namespace {

using cpu::InstructionSet;
using cpu::NamedSet;

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
  std::vector<ShapeCase> cases(9, ShapeCase{"base", base});
  cases[1].name = "odd_width";  // 72 = 4 heads of 18
  cases[1].shape.width = 72;
  cases[2].name = "one_head";
  cases[2].shape.heads = cases[2].shape.kv_heads = 1;
  cases[3].name = "one_kv_head_of_seven";
  cases[3].shape.width = 7 * 12;
  cases[3].shape.heads = 7;
  cases[3].shape.kv_heads = 1;
  cases[4].name = "no_rope";
  cases[4].shape.use_rope = false;
  cases[5].name = "tied_head";
  cases[5].shape.tied_head = true;
  cases[6].name = "narrow";  // heads of 2
  cases[6].shape.width = 6;
  cases[6].shape.heads = cases[6].shape.kv_heads = 3;
  cases[7].name = "width_of_13";  // odd: only without RoPE
  cases[7].shape.width = 13;
  cases[7].shape.heads = cases[7].shape.kv_heads = 1;
  cases[7].shape.use_rope = false;
  cases[8].name = "wide_heads";  // two of 100
  cases[8].shape.width = 200;
  cases[8].shape.heads = cases[8].shape.kv_heads = 2;
  return cases;
}

std::vector<int32_t> Tokens(int32_t count, int32_t vocab) {
  std::vector<int32_t> tokens(count);
  for (int32_t i = 0; i < count; ++i) tokens[i] = (i * i + 5 * i + 3) % vocab;
  return tokens;
}

struct Runner {
  Runner(absl::StatusOr<std::unique_ptr<Ops>> ops, StateDtype dtype, int32_t pages = 16)
      : model(std::move(ops).value()), arena(pages, dtype == StateDtype::kCompact ? 4 : 0) {
    EXPECT_TRUE(model.ops().AllocateState(pages, 4).ok());
  }
  Model model;
  StateArena arena;
};

OpsOptions Options(StateDtype dtype, int32_t threads = 2) {
  OpsOptions options;
  options.state_dtype = dtype;
  options.cpu_threads = threads;
  return options;
}

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

TEST_P(CpuOpsTest, AgreesWithDenseDoubleAtPageEdges) {
  const RandomWeights weights(shape(), 7);
  Runner runner(CreateCpuOpsWith(set(), shape(), weights.tensors(), Options(StateDtype::kF32)),
                StateDtype::kF32);
  // bf16 operands, some ten products in a row: each rounds by 2^-9.
  const bool bf16 = cpu::KernelsFor(set(), true).bf16;
  const Tolerance tolerance = bf16 ? Tolerance{1e-2, 3e-2} : kFloat32Tolerance;
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

TEST_P(CpuOpsTest, AgreesWithTheReferenceInCompactState) {
  const RandomWeights weights(shape(), 11);
  const OpsOptions options = Options(StateDtype::kCompact);
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

StepResult Step(Runner* runner, PageTable* table, std::vector<int32_t> tokens, int32_t out_slot = -1,
                int32_t token_slot = -1) {
  static const SampleParams* const kGreedy = [] {
    auto* params = new SampleParams;
    params->temperature = 0;
    return params;
  }();
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
  output.params = kGreedy;
  StepBatch batch;
  StepBatchBuilder(&batch).Append(tokens, start, *table, {&output, 1}, token_slot);
  runner->model.Launch(batch);
  StepResult result = runner->model.Collect().value();
  table->Commit(end);
  return result;
}

TEST_P(CpuOpsTest, TokenSlotCarriesTheDrawnTokenToTheNextStep) {
  const RandomWeights weights(shape(), 3);
  Runner runner(CreateCpuOpsWith(set(), shape(), weights.tensors(), Options(StateDtype::kF32)),
                StateDtype::kF32);
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

TEST_P(CpuOpsTest, ForksGoTheirOwnWays) {
  const RandomWeights weights(shape(), 3);
  for (int32_t length : {63, 64, 65, 100}) {
    Runner runner(CreateCpuOpsWith(set(), shape(), weights.tensors(), Options(StateDtype::kCompact)),
                  StateDtype::kCompact);
    const std::vector<int32_t> prefix = Tokens(length, shape().vocab);
    PageTable trunk, alone;
    Step(&runner, &trunk, prefix);
    PageTable fork = trunk.Fork(length, &runner.arena);
    ASSERT_EQ(fork.tokens(), length);
    Step(&runner, &alone, prefix);
    for (int32_t i = 0; i < 4; ++i) {
      Step(&runner, &trunk, {10 + i});
      Step(&runner, &fork, {50 + i});
      const std::vector<float> forked = runner.model.ops().ReadLogits(0).value();
      Step(&runner, &alone, {50 + i});
      EXPECT_EQ(runner.model.ops().ReadLogits(0).value(), forked);
    }
    for (PageTable* table : {&trunk, &fork, &alone}) table->Release(&runner.arena);
  }
}

TEST(CpuOps, CountsStateThatDoesNotFitFp16AndClampsIt) {
  ModelShape shape = ShapeCases()[2].shape;  // one head: f is the attention's output itself
  shape.layers = 1;
  const RandomWeights weights(shape, 3);
  ModelTensors tensors = weights.tensors();
  const std::vector<float> zeros(shape.width * shape.width), large(shape.width, -1e5f);
  tensors.layers[0].v_weight = {DType::kF32, tensors.layers[0].v_weight.dims, zeros.data()};
  tensors.layers[0].v_bias = {DType::kF32, tensors.layers[0].v_bias.dims, large.data()};
  Runner runner(CreateCpuOps(shape, tensors, Options(StateDtype::kCompact)), StateDtype::kCompact);
  PageTable table;
  EXPECT_EQ(Step(&runner, &table, {1}).state_saturations, shape.width);
  std::vector<float> s(shape.width);
  ASSERT_TRUE(runner.model.ops().ReadState(table.pages()[0], 0, Plane::kS, 0, 1, s.data()).ok());
  EXPECT_THAT(s, testing::Each(-65504.0f));
  EXPECT_EQ(Step(&runner, &table, {1, 2, 3}).state_saturations, 3 * shape.width);
  table.Release(&runner.arena);
}

// Also not of the session that gets its pages afterwards.
TEST(CpuOps, NaNIsAResultOfItsOwnSessionOnly) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  ModelTensors tensors = weights.tensors();
  const auto* numbers = static_cast<const uint16_t*>(tensors.embed.data);
  std::vector<uint16_t> embed(numbers, numbers + shape.vocab * shape.width);
  embed[9 * shape.width] = 0x7fc0;  // NaN
  tensors.embed.data = embed.data();
  for (StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    Runner runner(CreateCpuOps(shape, tensors, Options(dtype)), dtype);
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

TEST(CpuOps, ReadsLogitsOfTheLastStepOnly) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  Runner runner(CreateCpuOps(shape, weights.tensors(), Options(StateDtype::kF32)), StateDtype::kF32);
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

TEST(CpuOps, SaysWhatWasChosenAndWhy) {
  const ModelShape shape = ShapeCases()[0].shape;
  const RandomWeights weights(shape, 3);
  const auto describe = [&](InstructionSet set, const ModelTensors& tensors) {
    return CreateCpuOpsWith(set, shape, tensors, Options(StateDtype::kCompact, 3))
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
  EXPECT_EQ(CreateCpuOps(shape, weights.tensors(), Options(StateDtype::kF32, 0)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sessa
