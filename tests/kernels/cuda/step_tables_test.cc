// The tables of a step as the CUDA backend builds them on the host; needs neither a card nor CUDA.
#include "kernels/cuda/step_tables.h"

#include <gmock/gmock.h>

#include "kernels/cuda/attention_schedule.h"
#include "tests/kernels/cuda/cuda_fixture.h"

namespace sessa::cuda {
namespace {

using testing::ElementsAre;

constexpr int32_t kMultiprocessors = 132, kMaxSegments = 256;
constexpr PageId kScratch = 9999, kScratchOpen = 999;

// A step's tables, in memory of exactly the size that they ask for.
struct Tables {
  explicit Tables(const StepBatch& batch)
      : bytes(TableBytes(kMaxSegments, batch.rows(), batch.outputs.size(), batch.pages.size()) + 64, '\xee') {
    plan = BuildTables(batch, kMaxSegments, kScratch, kScratchOpen, kMultiprocessors, bytes.data());
    EXPECT_LE(plan.layout.bytes, static_cast<int64_t>(bytes.size()) - 64);
    for (size_t i = bytes.size() - 64; i < bytes.size(); ++i) EXPECT_EQ(bytes[i], '\xee') << "written beyond";
  }
  template <typename T>
  const T* At(int64_t offset) const {
    return reinterpret_cast<const T*>(bytes.data() + offset);
  }
  const DecodeHeader& header() const { return *At<DecodeHeader>(plan.layout.header); }
  std::vector<int32_t> Ints(int64_t offset, int32_t count) const {
    return std::vector<int32_t>(At<int32_t>(offset), At<int32_t>(offset) + count);
  }
  std::vector<char> bytes;
  StepPlan plan{TableLayout(kMaxSegments)};
};

// Rows that decode, each at one of `positions` with pages of its own, sampled greedily.
StepBatch Decoders(const std::vector<int64_t>& positions) {
  static const SampleParams greedy = [] {
    SampleParams params;
    params.temperature = 0;
    return params;
  }();
  std::vector<std::vector<PageId>> pages;
  std::vector<PageId> open;
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < positions.size(); ++i) {
    pages.emplace_back(positions[i] / kPageTokens + 1, static_cast<PageId>(i));
    open.push_back(static_cast<PageId>(i));
    tokens.push_back(100 + static_cast<int32_t>(i));
  }
  return DecodeBatch(tokens, positions, pages, open,
                     std::vector<const SampleParams*>(tokens.size(), &greedy));
}

TEST(StepTablesTest, CutsEachRowByItsOwnLength) {
  const Tables tables(Decoders({0, 1, 127, 128, 129}));
  const TableLayout& layout = tables.plan.layout;
  ASSERT_EQ(tables.plan.row_bucket, 8);
  // The feedback attention sees the strict past, the forward attention the row's own token as well; padding
  // nothing.
  EXPECT_THAT(tables.Ints(layout.feedback_first, 9), ElementsAre(0, 0, 1, 2, 3, 5, 5, 5, 5));
  EXPECT_THAT(tables.Ints(layout.forward_first, 9), ElementsAre(0, 1, 2, 3, 5, 7, 7, 7, 7));
  EXPECT_THAT(tables.Ints(layout.feedback_runs, 9), ElementsAre(0, 0, 1, 2, 3, 4, 4, 4, 4));
  EXPECT_THAT(tables.Ints(layout.forward_runs, 9), ElementsAre(0, 1, 2, 3, 4, 5, 5, 5, 5));
  EXPECT_EQ(tables.plan.attention_units, 7);
}

TEST(StepTablesTest, PaddingWritesToTheScratchPage) {
  const Tables tables(Decoders({5, 70, 3}));
  const auto* rows = tables.At<RowMeta>(tables.plan.layout.decode_rows);
  EXPECT_EQ(rows[1].token, 101);
  EXPECT_EQ(rows[1].position, 70);
  EXPECT_EQ(rows[1].live, 1);
  EXPECT_EQ(rows[3].live, 0);
  EXPECT_EQ(rows[3].open_page, kScratchOpen);
  EXPECT_EQ(tables.At<int32_t>(tables.plan.layout.pages)[rows[3].page_begin], kScratch);
}

TEST(StepTablesTest, FewUnitsAreCutIntoLeaves) {
  EXPECT_EQ(Tables(Decoders({4000})).header().fine, 1);
  EXPECT_EQ(Tables(Decoders({4300})).header().fine, 0) << "34 units, of 132 multiprocessors";
  EXPECT_EQ(Tables(Decoders(std::vector<int64_t>(64, 1024))).header().fine, 0);
}

TEST(StepTablesTest, WholeRunsAreDealtWhereEveryMultiprocessorHasSomeUnits) {
  const auto whole = [](int32_t rows, int64_t position) {
    const Tables tables(Decoders(std::vector<int64_t>(rows, position)));
    for (const int64_t runs : {tables.plan.layout.feedback_runs, tables.plan.layout.forward_runs}) {
      const int32_t all = tables.At<int32_t>(runs)[tables.plan.row_bucket];
      const int32_t dealt = tables.header().whole_runs[runs == tables.plan.layout.forward_runs];
      EXPECT_GE(dealt, 0);
      EXPECT_LE(dealt, all - std::min(all, kMultiprocessors / kRunUnits))
          << "the last units are dealt singly";
    }
    return std::make_pair(tables.header().whole_runs[0], tables.header().whole_runs[1]);
  };
  EXPECT_EQ(whole(8, 2048), std::make_pair(0, 0)) << "128 and 136 units";
  EXPECT_EQ(whole(64, 1024), std::make_pair(128 - 33, 192 - 33));
  EXPECT_EQ(whole(256, 4096), std::make_pair(2048 - 33, 2304 - 33));
}

TEST(StepTablesTest, PrefillRowsFollowTheDecodingOnes) {
  StepBatch batch = Decoders({7, 9});
  Segment prompt;
  prompt.first_row = 2;
  prompt.rows = 3;
  prompt.start = 62;
  prompt.page_begin = static_cast<int32_t>(batch.pages.size());
  prompt.page_count = 2;
  prompt.open_page = 5;
  batch.pages.insert(batch.pages.end(), {40, 41});
  batch.segments.push_back(prompt);
  batch.tokens.insert(batch.tokens.end(), {201, 202, 203});
  const Tables tables(batch);
  EXPECT_EQ(tables.plan.decode_rows, 2);
  EXPECT_EQ(tables.plan.prefill_rows, 3);
  const auto* rows = tables.At<RowMeta>(tables.plan.layout.prefill_rows);
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(rows[i].token, 201 + i);
    EXPECT_EQ(rows[i].position, 62 + i);
    EXPECT_EQ(rows[i].open_page, 5);
  }
}

TEST(StepTablesTest, OutputsThatTheHostSamplesAreLeftToIt) {
  StepBatch batch = Decoders({1, 2, 3, 4, 5, 6});
  SampleParams penalty, sampled, own, likely;
  penalty.repetition_penalty = 1.2f;
  sampled.top_k = 7;
  sampled.seed = 42;
  batch.outputs[0].params = &penalty;
  batch.outputs[1].params = &sampled;
  batch.outputs[2].target = 6;
  own.top_logprobs = 0;  // its own log-probability, which the device gives
  likely.top_logprobs = 1;
  batch.outputs[3].params = batch.outputs[5].params = &own;
  batch.outputs[4].params = &likely;
  batch.outputs[3].target = batch.outputs[4].target = 8;
  const Tables tables(batch);
  const auto* outputs = tables.At<OutputMeta>(tables.plan.layout.decode_outputs);
  EXPECT_EQ(outputs[0].mode, OutputMode::kNone);
  EXPECT_EQ(outputs[1].mode, OutputMode::kSample);
  EXPECT_EQ(outputs[1].top_k, 7);
  EXPECT_EQ(outputs[1].seed, 42u);
  EXPECT_EQ(outputs[1].position, 3);
  EXPECT_EQ(outputs[2].mode, OutputMode::kScore);
  EXPECT_EQ(outputs[2].target, 6);
  EXPECT_EQ(outputs[3].mode, OutputMode::kScore);
  EXPECT_EQ(outputs[4].mode, OutputMode::kNone);
  EXPECT_EQ(outputs[5].mode, OutputMode::kNone) << "a draw and its log-probability";
  for (int32_t i = 0; i < 6; ++i) {
    EXPECT_EQ(DeviceGives(batch.outputs[i]), outputs[i].mode != OutputMode::kNone) << i;
  }
}

TEST(StepTablesTest, BucketsHoldTheirRows) {
  EXPECT_EQ(BucketOf(0), 0);
  for (int32_t rows = 1; rows <= 1000; ++rows) {
    EXPECT_GE(BucketOf(rows), rows);
    EXPECT_EQ(BucketOf(BucketOf(rows)), BucketOf(rows));
  }
}

}  // namespace
}  // namespace sessa::cuda
