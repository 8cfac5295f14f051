// Decode on the card: bitwise the same alone and in any company, bucket and cut of the attention, and beside
// prefill.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "tests/kernels/cuda/cuda_fixture.h"
#include "tests/kernels/cuda/quick.h"
#include "tests/kernels/mixed_step.h"

namespace sessa {
namespace {

struct InvarianceCase {
  const char* name;
  ModelShape shape;
  StateDtype dtype = StateDtype::kCompact;
  int32_t schedules = 100;
};

class CudaInvarianceTest : public testing::TestWithParam<InvarianceCase> {};
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaInvarianceTest,
    testing::Values(InvarianceCase{"wide", MakeShape(1024, 1, 16, 4, 512), StateDtype::kCompact, 150},
                    InvarianceCase{"recall", MakeShape(384, 2, 6, 2, 512), StateDtype::kCompact, 150},
                    InvarianceCase{"small", MakeShape(64, 2, 4, 2, 97), StateDtype::kCompact, 100},
                    InvarianceCase{"widest", MakeShape(2048, 1, 16, 4, 256), StateDtype::kCompact, 60},
                    InvarianceCase{"float32_state", MakeShape(64, 2, 4, 2, 97), StateDtype::kF32, 20},
                    InvarianceCase{"odd", MakeShape(90, 2, 5, 1, 97), StateDtype::kCompact, 20}),
    [](const auto& info) { return std::string(info.param.name); });

// Sessions with random pages, which steps may visit at any position.
struct Sessions {
  static constexpr int32_t kSessions = 256;
  static constexpr int32_t kPages = 3000;
  static constexpr int32_t kPagesEach = 520;  // 33,280 tokens: rows of more have units of 3 x 128 (kMaxUnits)

  explicit Sessions(std::mt19937* random) {
    std::vector<PageId> free(kPages);
    std::iota(free.begin(), free.end(), 0);
    for (int32_t i = 0; i < kSessions; ++i) {
      // Pages are shared between sessions except the one that a step writes to, which is the session's own.
      own.push_back(i);
      std::vector<PageId>& list = shared.emplace_back();
      for (int32_t p = 0; p < kPagesEach; ++p) list.push_back(kSessions + (*random)() % (kPages - kSessions));
    }
  }
  std::vector<PageId> Pages(int32_t session, int64_t position) const {
    const int64_t block = position / kPageTokens;
    std::vector<PageId> pages(shared[session].begin(), shared[session].begin() + block);
    pages.push_back(own[session]);
    return pages;
  }
  std::vector<PageId> own;
  std::vector<std::vector<PageId>> shared;
};

TEST_P(CudaInvarianceTest, ARowIsTheSameAloneAndInAnyCompany) {
  SKIP_WITHOUT_CUDA();
  const InvarianceCase& test = GetParam();
  std::mt19937 random(17);
  const RandomWeights weights(test.shape, 5);
  OpsOptions options;
  options.state_dtype = test.dtype;
  options.max_rows = options.max_segments = Sessions::kSessions;
  Model model(MakeCuda(test.shape, weights.tensors(), options, Sessions::kPages));
  model.ops().FillState(3);
  const Sessions sessions(&random);
  SampleParams greedy;
  greedy.temperature = 0;

  const auto run = [&](const std::vector<int32_t>& who, const std::vector<int32_t>& tokens,
                       const std::vector<int64_t>& positions) {
    std::vector<std::vector<PageId>> pages;
    std::vector<PageId> open;
    for (size_t i = 0; i < who.size(); ++i) {
      pages.push_back(sessions.Pages(who[i], positions[i]));
      open.push_back(test.dtype == StateDtype::kCompact ? who[i] : -1);
    }
    const StepBatch batch =
        DecodeBatch(tokens, positions, pages, open, std::vector<const SampleParams*>(who.size(), &greedy));
    model.Launch(batch);
    EXPECT_EQ(model.Collect().status().ToString(), "OK");
    std::vector<std::vector<float>> logits;
    for (size_t i = 0; i < who.size(); ++i) logits.push_back(model.ops().ReadLogits(i).value());
    return logits;
  };

  const int32_t sizes[] = {1, 2, 3, 5, 8, 13, 16, 20, 31, 33, 64, 65, 100, 129, 200, 256};
  const int32_t longest[] = {3, 64, 130, 700, 2500, 20'000, Sessions::kPagesEach * kPageTokens - 1};
  const int32_t schedules = Quick() ? 2 : test.schedules;
  for (int32_t schedule = 0; schedule < schedules; ++schedule) {
    SCOPED_TRACE(schedule);
    std::vector<int32_t> who(Sessions::kSessions), tokens;
    std::iota(who.begin(), who.end(), 0);
    std::shuffle(who.begin(), who.end(), random);
    who.resize(sizes[random() % std::size(sizes)]);
    std::vector<int64_t> positions;
    const int32_t limit = longest[random() % std::size(longest)];
    for (size_t i = 0; i < who.size(); ++i) {
      tokens.push_back(random() % test.shape.vocab);
      positions.push_back(random() % (limit + 1));
    }
    const auto together = run(who, tokens, positions);
    for (int32_t pick = 0; pick < 2; ++pick) {
      const size_t i = random() % who.size();
      const auto alone = run({who[i]}, {tokens[i]}, {positions[i]});
      ASSERT_EQ(std::memcmp(alone[0].data(), together[i].data(), alone[0].size() * sizeof(float)), 0)
          << who.size() << " rows, position " << positions[i];
      ASSERT_TRUE(std::all_of(alone[0].begin(), alone[0].end(), [](float l) { return std::isfinite(l); }));
    }
  }
}

TEST_P(CudaInvarianceTest, DecodesAndReadsAPromptInOneStep) {
  SKIP_WITHOUT_CUDA();
  const InvarianceCase& test = GetParam();
  const RandomWeights weights(test.shape, 7);
  OpsOptions options;
  options.state_dtype = test.dtype;
  options.max_rows = 512;
  options.max_segments = 64;
  for (const int32_t decoders : {1, 2, 3, 9, 40}) {  // the few-rows kernel; both kinds of products; buckets
    for (const int32_t chunk : {2, 59, 300}) {
      if (Quick() && (chunk != 59 || (decoders != 2 && decoders != 9))) continue;
      EXPECT_EQ(MixedStepDifference(LoadCudaOps(test.shape, weights.tensors(), options).value(), decoders,
                                    chunk, chunk),
                "")
          << decoders << " decoders, " << chunk;
    }
  }
}

}  // namespace
}  // namespace sessa
