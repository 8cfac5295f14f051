// The CUDA backend against the reference backend, and what only it does: sampling on the device, token slots
// with two steps in flight, running out of memory.
#include <cmath>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "kernels/host_sampler.h"
#include "kernels/reference/reference_ops.h"
#include "runtime/state_arena.h"
#include "tests/kernels/cuda/cuda_fixture.h"
#include "tests/kernels/cuda/quick.h"
#include "tools/compare.h"
#include "tools/sequence.h"

namespace sessa {
namespace {

struct ShapeCase {
  const char* name;
  ModelShape shape;
  StateDtype dtype = StateDtype::kCompact;
};

std::vector<ShapeCase> ShapeCases() {
  std::vector<ShapeCase> cases = {
      {"base", MakeShape(64, 2, 4, 2, 97)},
      {"float32_state", MakeShape(64, 2, 4, 2, 97), StateDtype::kF32},
      {"head_of_8", MakeShape(64, 1, 8, 8, 97)},
      {"three_queries_a_key", MakeShape(384, 2, 6, 2, 1024)},
      {"eight_queries_a_key", MakeShape(512, 1, 8, 1, 300)},
      {"head_of_128", MakeShape(256, 1, 2, 2, 97)},
      {"head_of_256", MakeShape(512, 1, 2, 1, 97)},
      {"wide", MakeShape(1024, 1, 16, 4, 256)},
      {"many_keys", MakeShape(1024, 1, 16, 16, 256)},
      {"widest", MakeShape(2048, 1, 16, 8, 256)},
      {"one_head", MakeShape(64, 2, 1, 1, 97)},
      {"width_72", MakeShape(72, 2, 4, 2, 97)},  // heads of 18: the generic kernels
      {"width_90", MakeShape(90, 2, 5, 5, 97)},  // rows that are not whole 16-byte vectors
      {"narrow", MakeShape(6, 2, 3, 3, 31)},
      {"no_rope", MakeShape(64, 2, 4, 2, 97)},
      {"tied_head", MakeShape(64, 2, 4, 2, 97)},
  };
  cases[14].shape.use_rope = false;
  cases[15].shape.tied_head = true;
  return cases;
}

class CudaShapeTest : public testing::TestWithParam<ShapeCase> {};
INSTANTIATE_TEST_SUITE_P(Shapes, CudaShapeTest, testing::ValuesIn(ShapeCases()),
                         [](const auto& info) { return std::string(info.param.name); });

struct Runner {
  Runner(std::unique_ptr<Ops> ops, int32_t pages, int32_t open_pages)
      : model(std::move(ops)), arena(pages, open_pages) {}
  Model model;
  StateArena arena;
};

constexpr int32_t kTokens = 150;  // two page edges

Runner MakeRunner(CreateOpsFn create, const ShapeCase& test, const ModelTensors& tensors) {
  OpsOptions options;
  options.state_dtype = test.dtype;
  options.max_rows = 256;
  options.max_segments = 4;
  const int32_t pages = PagesForTokens(kTokens) + 1, open = test.dtype == StateDtype::kCompact ? 1 : 0;
  std::unique_ptr<Ops> ops = create(test.shape, tensors, options).value();
  EXPECT_EQ(ops->AllocateState(pages, open).ToString(), "OK");
  return Runner(std::move(ops), pages, open);
}

// Activations are rounded to bf16 six times a layer, which moves a row's norm by 2^-9 each time; the errors
// are independent, so that they grow like the root of their count.
double Tolerance(const ModelShape& shape) { return 4 * std::sqrt(6.0 * shape.layers + 2) / 512; }

// One token at a time; of the quick ones the first, and those around the second page edge.
std::vector<int32_t> DecodeChunks() {
  if (!Quick()) return EvenChunks(kTokens, 1);
  std::vector<int32_t> chunks = {1, 1, 2 * kPageTokens - 5};
  chunks.resize(chunks.size() + 7, 1);
  chunks.push_back(kTokens - std::accumulate(chunks.begin(), chunks.end(), 0));
  return chunks;
}

TEST_P(CudaShapeTest, AgreesWithTheReferenceOnEveryPath) {
  SKIP_WITHOUT_CUDA();
  const ShapeCase& test = GetParam();
  const RandomWeights weights(test.shape, 29);
  Runner reference = MakeRunner(CreateReferenceOps, test, weights.tensors());
  Runner cuda = MakeRunner(LoadCudaOps, test, weights.tensors());
  std::mt19937 random(7);
  std::vector<int32_t> tokens(kTokens);
  for (int32_t& token : tokens) token = random() % test.shape.vocab;
  const SequenceResult expected = RunSequence(&reference.model, &reference.arena, tokens, {kTokens}).value();
  std::vector<int32_t> mixed = {70, 1, 1, 20, 1, 1, 1};
  mixed.push_back(kTokens - std::accumulate(mixed.begin(), mixed.end(), 0));
  const std::vector<std::pair<const char*, std::vector<int32_t>>> paths = {
      {"decode", DecodeChunks()},
      {"whole", {kTokens}},
      {"even chunks", EvenChunks(kTokens, Quick() ? 50 : 7)},
      {"mixed", mixed}};
  for (const auto& [name, chunks] : paths) {
    SCOPED_TRACE(name);
    const absl::StatusOr<SequenceResult> actual = RunSequence(&cuda.model, &cuda.arena, tokens, chunks);
    ASSERT_TRUE(actual.ok()) << actual.status();
    EXPECT_LT(Compare(actual->logits, expected.logits, test.shape.vocab).tensor, Tolerance(test.shape));
    for (int32_t layer = 0; layer < test.shape.layers; ++layer) {
      for (int plane = 0; plane < 4; ++plane) {
        const int32_t width = plane < 2 ? test.shape.kv_width() : test.shape.width;
        EXPECT_LT(Compare(actual->planes[layer][plane], expected.planes[layer][plane], width).tensor,
                  Tolerance(test.shape))
            << "layer " << layer << " plane " << plane;
      }
    }
  }
}

// Rows of one token each, with pages filled at random.
struct DecodeRows {
  DecodeRows(const ModelShape& shape, int32_t rows, uint32_t seed) : weights(shape, seed) {
    OpsOptions options;
    options.state_dtype = StateDtype::kCompact;
    options.max_rows = options.max_segments = rows;
    model = std::make_unique<Model>(MakeCuda(shape, weights.tensors(), options, rows));
    model->ops().FillState(seed);
    std::mt19937 random(seed);
    for (int32_t i = 0; i < rows; ++i) {
      tokens.push_back(random() % shape.vocab);
      positions.push_back(random() % kPageTokens);
      pages.push_back({i});
      open.push_back(i);
    }
  }
  RandomWeights weights;
  std::unique_ptr<Model> model;
  std::vector<int32_t> tokens;
  std::vector<int64_t> positions;
  std::vector<std::vector<PageId>> pages;
  std::vector<PageId> open;
};

SampleParams RandomParams(std::mt19937* random) {
  const float temperatures[] = {0.0f, 0.05f, 0.3f, 1.0f, 1.7f};
  const int32_t top_ks[] = {0, 0, 1, 2, 40, 1000, 1 << 20};
  const float top_ps[] = {1.0f, 1.0f, 0.01f, 0.5f, 0.9f, 0.999f};
  const float min_ps[] = {0.0f, 0.0f, 0.02f, 0.3f, 1.0f};
  SampleParams params;
  params.temperature = temperatures[(*random)() % 5];
  params.top_k = top_ks[(*random)() % 7];
  params.top_p = top_ps[(*random)() % 6];
  params.min_p = min_ps[(*random)() % 5];
  params.seed = (*random)();
  params.sample_index = (*random)() % 3;
  return params;
}

TEST(CudaSampling, DrawsWhatTheHostDraws) {
  SKIP_WITHOUT_CUDA();
  constexpr int32_t kRows = 256;
  std::mt19937 random(11);
  for (int32_t vocab : {5, 97, 1024, 32000}) {
    SCOPED_TRACE(vocab);
    DecodeRows rows(MakeShape(64, 1, 4, 2, vocab), kRows, 31);
    for (int round = 0; round < (Quick() ? 1 : 3); ++round) {
      std::vector<SampleParams> params;
      std::vector<const SampleParams*> pointers;
      TokenCounts counts = {{1, 3}, {2, 1}};
      for (int32_t i = 0; i < kRows; ++i) {
        params.push_back(RandomParams(&random));
        if (i % 16 == 7) params.back().repetition_penalty = 1.3f;  // sampled by the host
        if (i % 16 == 9) params.back().top_logprobs = 3;
        if (i % 32 == 21) params.back().top_logprobs = 0;  // of a target: scored by the device
      }
      for (const SampleParams& p : params) pointers.push_back(&p);
      StepBatch batch = DecodeBatch(rows.tokens, rows.positions, rows.pages, rows.open, pointers);
      for (int32_t i = 0; i < kRows; ++i) {
        batch.outputs[i].counts = &counts;
        if (i % 32 == 5 || i % 32 == 21) batch.outputs[i].target = static_cast<int32_t>(random() % vocab);
      }
      rows.model->Launch(batch);
      const StepResult result = rows.model->Collect().value();
      SampleScratch scratch;
      for (int32_t i = 0; i < kRows; ++i) {
        const std::vector<float> logits = rows.model->ops().ReadLogits(i).value();
        const OutputResult expected = SampleRow(logits, batch.outputs[i], scratch);
        const SampleParams& p = params[i];
        EXPECT_EQ(result.outputs[i].token, expected.token)
            << "row " << i << " temperature " << p.temperature << " top_k " << p.top_k << " top_p " << p.top_p
            << " min_p " << p.min_p << " target " << batch.outputs[i].target;
        EXPECT_TRUE(result.outputs[i].finite);
        EXPECT_EQ(result.outputs[i].top.size(), expected.top.size());
        if (batch.outputs[i].target < 0 && p.top_logprobs < 0) continue;
        EXPECT_NEAR(result.outputs[i].logprob, expected.logprob, 1e-5 + 1e-6 * std::abs(expected.logprob));
      }
    }
  }
}

// Greedy tokens of some steps; with run-ahead each step is launched before the one in front of it is
// collected.
std::vector<std::vector<int32_t>> GreedySteps(DecodeRows* rows, int32_t steps, bool run_ahead) {
  SampleParams greedy;
  greedy.temperature = 0;
  const std::vector<const SampleParams*> params(rows->tokens.size(), &greedy);
  std::vector<StepBatch> batches;
  std::vector<int64_t> positions(rows->tokens.size(), 3);
  std::vector<int32_t> tokens = rows->tokens;
  std::vector<std::vector<int32_t>> drawn;
  const auto collect = [&] {
    const StepResult result = rows->model->Collect().value();
    drawn.emplace_back();
    for (const OutputResult& output : result.outputs) drawn.back().push_back(output.token);
  };
  batches.reserve(steps);
  for (int32_t step = 0; step < steps; ++step) {
    StepBatch& batch = batches.emplace_back(DecodeBatch(tokens, positions, rows->pages, rows->open, params));
    for (size_t i = 0; i < tokens.size(); ++i) {
      batch.outputs[i].slot = static_cast<int32_t>(i);
      if (step > 0 && run_ahead) batch.segments[i].token_slot = static_cast<int32_t>(i);
      ++positions[i];
    }
    rows->model->Launch(batch);
    if (run_ahead) {
      if (step > 0) collect();
      std::fill(tokens.begin(), tokens.end(), -1);
    } else {
      collect();
      tokens = drawn.back();
    }
  }
  if (run_ahead) collect();
  return drawn;
}

TEST(CudaOps, RunningAheadDrawsTheSameTokens) {
  SKIP_WITHOUT_CUDA();
  const int32_t steps = Quick() ? 3 : 12;
  for (int32_t count : {1, 3, 40}) {
    DecodeRows rows(MakeShape(384, 2, 6, 2, 1024), count, 41);
    const auto one_by_one = GreedySteps(&rows, steps, false);
    EXPECT_EQ(GreedySteps(&rows, steps, true), one_by_one) << count;
  }
}

TEST(CudaOps, LogitsThatAreNotFiniteAreReported) {
  SKIP_WITHOUT_CUDA();
  const ModelShape shape = MakeShape(64, 1, 4, 2, 97);
  RandomWeights weights(shape, 3);
  ModelTensors tensors = weights.tensors();
  std::vector<float> bias(64, 0.0f);
  bias[5] = std::numeric_limits<float>::quiet_NaN();
  tensors.norm_bias = {DType::kF32, {64}, bias.data()};
  OpsOptions options;
  options.max_rows = options.max_segments = 2;
  options.state_dtype = StateDtype::kCompact;
  Model model(MakeCuda(shape, tensors, options, 2));
  SampleParams sampled, greedy;
  greedy.temperature = 0;
  const StepBatch batch = DecodeBatch({1, 2}, {0, 0}, {{0}, {1}}, {0, 1}, {&greedy, &sampled});
  model.Launch(batch);
  const StepResult result = model.Collect().value();
  EXPECT_FALSE(result.outputs[0].finite);
  EXPECT_FALSE(result.outputs[1].finite);
}

TEST(CudaOps, ValuesBeyondFp16AreSaturatedAndCounted) {
  SKIP_WITHOUT_CUDA();
  const ModelShape shape = MakeShape(64, 1, 4, 2, 97);
  RandomWeights weights(shape, 3);
  ModelTensors tensors = weights.tensors();
  std::vector<float> bias(32, 1e6f), zero(32 * 64, 0.0f);  // v = 1e6 in every column
  tensors.layers[0].v_weight = {DType::kF32, {32, 64}, zero.data()};
  tensors.layers[0].v_bias = {DType::kF32, {32}, bias.data()};
  for (int32_t rows : {1, 5}) {  // a decode row; a prefill segment
    OpsOptions options;
    options.max_rows = options.max_segments = 8;
    options.state_dtype = StateDtype::kCompact;
    Model model(MakeCuda(shape, tensors, options, 2));
    Segment segment;
    segment.rows = rows;
    segment.page_count = 1;
    segment.open_page = 0;
    StepBatch batch;
    batch.segments = {segment};
    batch.tokens.assign(rows, 4);
    batch.pages = {0};
    model.Launch(batch);
    const StepResult result = model.Collect().value();
    std::vector<float> s(rows * shape.width);
    ASSERT_TRUE(model.ops().ReadState(0, 0, Plane::kS, 0, rows, s.data()).ok());
    uint64_t saturated = 0;
    for (float value : s) saturated += std::abs(value) == 65504.0f;
    EXPECT_GT(saturated, 0u);
    EXPECT_EQ(result.state_saturations, saturated);
  }
}

TEST(CudaOps, TooMuchStateSaysAskedFreeAndNeeded) {
  SKIP_WITHOUT_CUDA();
  const ModelShape shape = MakeShape(1024, 24, 16, 4, 97);
  const RandomWeights weights(shape, 3);
  OpsOptions options;
  options.state_dtype = StateDtype::kCompact;
  const std::unique_ptr<Ops> ops = LoadCudaOps(shape, weights.tensors(), options).value();
  const absl::Status status = ops->AllocateState(1 << 20, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(testing::HasSubstr("asked for"), testing::HasSubstr("free are"),
                             testing::HasSubstr("needed are")));
  EXPECT_EQ(ops->AllocateState(2, 1).ToString(), "OK");
}

TEST(CudaPlugin, ACardThatIsNotThereIsNamed) {
  const ModelShape shape = MakeShape(8, 1, 1, 1, 8);
  OpsOptions options;
  options.device = 99;
  const auto ops = LoadCudaOps(shape, RandomWeights(shape, 1).tensors(), options);
  ASSERT_FALSE(ops.ok());
  const bool card = !absl::IsUnavailable(CudaStatus());
  EXPECT_EQ(ops.status().code(), card ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kUnavailable);
  EXPECT_FALSE(ops.status().message().empty());
}

}  // namespace
}  // namespace sessa
