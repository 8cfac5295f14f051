// The check is worth what it catches: mistakes that were measured to be small must be out of tolerance.
#include "tools/check_case.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/half.h"
#include "kernels/reference/reference_ops.h"

namespace sessa {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

GoldenCase Load(const std::string& name) { return LoadGoldenCase("tests/golden/" + name).value(); }

TEST(CheckCase, TheReferencePasses) {
  const CaseReport report = CheckCase(Load("base"), CheckOptions()).value();
  EXPECT_THAT(report.failures, IsEmpty());
  EXPECT_EQ(report.paths.size(), 5u);
  EXPECT_EQ(report.greedy_equal, report.greedy_compared);
  EXPECT_GT(report.greedy_compared, 0);
  EXPECT_THAT(FormatReport(report), AllOf(HasSubstr("base"), HasSubstr(" f32 "), HasSubstr(" ok "),
                                          HasSubstr("chunk7"), HasSubstr("kb")));
}

// Noise of a given relative size.
void Disturb(double relative, std::vector<float>* tensor) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  double sum = 0;
  for (float value : *tensor) sum += double{value} * value;
  const double scale = relative * std::sqrt(sum / tensor->size());
  for (float& value : *tensor) value = static_cast<float>(value + scale * normal(random));
}

TEST(CheckCase, SeesTheErrorOfATanhGelu) {
  GoldenCase golden = Load("base");
  Disturb(7e-5, &golden.expected.logits);  // what the tanh form does to the logits
  const CaseReport report = CheckCase(golden, CheckOptions()).value();
  EXPECT_THAT(report.failures, Contains("whole logits"));
  EXPECT_THAT(report.failures, Contains("decode logits"));
  EXPECT_THAT(report.failures, Each(Not(HasSubstr(" k"))));
  EXPECT_THAT(FormatReport(report), HasSubstr("FAILED"));
}

TEST(CheckCase, SeesTheErrorOfAnFp16StateCache) {
  GoldenCase logits = Load("base");
  Disturb(2e-5, &logits.expected.logits);
  EXPECT_THAT(CheckCase(logits, CheckOptions())->failures, Contains("whole logits"));

  GoldenCase state = Load("base");
  for (float& s : state.expected.planes[1][static_cast<int>(Plane::kS)]) s = FP16ToFloat(FloatToFP16(s));
  EXPECT_THAT(CheckCase(state, CheckOptions())->failures, Contains("whole s"));
}

TEST(CheckCase, SeesGammaRoundedToBF16) {
  const GoldenCase golden = Load("mqa_previous_token");
  ModelShape shape = golden.checkpoint->shape();
  shape.gamma_max = BF16ToFloat(FloatToBF16(static_cast<float>(shape.gamma_max)));
  ASSERT_EQ(shape.gamma_max, 1.0);
  Model model(CreateReferenceOps(shape, golden.checkpoint->tensors(), OpsOptions()).value());
  StateArena arena(PagesForTokens(200), 0);
  ASSERT_TRUE(model.ops().AllocateState(arena.total(PageKind::kState), 0).ok());
  const SequenceResult rounded = RunSequence(&model, &arena, golden.tokens, {200}).value();
  const TensorErrors errors = CompareSequences(shape, rounded, golden.expected);
  EXPECT_FALSE(kFloat32Tolerance.Accepts(errors[0])) << errors[0].tensor;
  EXPECT_FALSE(kFloat32Tolerance.Accepts(errors[4])) << errors[4].tensor;
}

TEST(CheckCase, SeesAWrongGreedyToken) {
  GoldenCase golden = Load("base");
  golden.greedy[2] = (golden.greedy[2] + 1) % golden.checkpoint->shape().vocab;
  EXPECT_THAT(CheckCase(golden, CheckOptions())->failures, testing::ElementsAre("greedy"));
  golden.greedy_margins[2] = 1e-4f;  // from there on any token may follow
  EXPECT_THAT(CheckCase(golden, CheckOptions())->failures, IsEmpty());
}

TEST(CheckCase, ComparesCompactStateWithFloat32OnTheSameWeights) {
  CheckOptions options;
  options.ops.state_dtype = StateDtype::kCompact;
  options.round_weights = true;
  GoldenCase golden = Load("base");
  Disturb(1, &golden.expected.logits);  // the golden vectors are of other weights and must not matter
  const CaseReport report = CheckCase(golden, options).value();
  EXPECT_THAT(report.failures, IsEmpty());
  EXPECT_GT(report.paths[0].errors[0].tensor, kFloat32Tolerance.tensor);
  EXPECT_GE(report.qualifying, 0.9);
}

TEST(CheckCase, JudgesByTheBackendThatAutoChooses) {
  CheckOptions options;
  options.backend = "auto";
  EXPECT_EQ(CheckCase(Load("base"), options).status().code(), absl::StatusCode::kInvalidArgument);
  const std::string name = ResolveBackend("auto", options.ops).value();
  EXPECT_THAT(name, testing::AnyOf("cpu", "cuda"));
  EXPECT_EQ(ResolveBackend("reference", options.ops).value(), "reference");
  EXPECT_EQ(ResolveBackend("gpu", options.ops).status().code(), absl::StatusCode::kInvalidArgument);
}

// 1e-2 from the reference on the same weights, 2e-2 for chains.
TEST(CheckCase, TheCudaBackendHasATolerance) {
  CheckOptions options;
  options.backend = "cuda";
  for (const StateDtype state : {StateDtype::kF32, StateDtype::kCompact}) {
    options.ops.state_dtype = state;
    EXPECT_FALSE(IsExact(options));
    EXPECT_EQ(ToleranceFor(Load("base"), options).tensor, 1e-2);
    EXPECT_EQ(ToleranceFor(Load("mqa_previous_token"), options).tensor, 2e-2);
  }
}

TEST(CheckCase, ErrorsNameTheFile) {
  EXPECT_THAT(std::string(LoadGoldenCase("tests/golden/missing").status().message()), HasSubstr("missing"));
  EXPECT_THAT(std::string(LoadRecallPrompts("tests/golden/base/config.json").status().message()),
              HasSubstr("config.json"));
}

TEST(CheckRecall, CountsAnswersThatDiffer) {
  std::vector<RecallPrompt> prompts = LoadRecallPrompts("tests/golden/recall_prompts.json").value();
  ASSERT_EQ(prompts.size(), 28u);
  prompts.resize(2);
  prompts[1].answer[0] ^= 1;
  CheckOptions options;
  options.backend = "cpu";
  const RecallReport report = CheckRecallPrompts(prompts, "models/sessa-recall-7m", options).value();
  EXPECT_EQ(report.prompts, 2);
  EXPECT_EQ(report.equal, 1);
  ASSERT_EQ(report.misses.size(), 1u);
  EXPECT_THAT(report.misses[0], HasSubstr("prompt 1"));
}

}  // namespace
}  // namespace sessa
