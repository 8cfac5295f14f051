// The schedule of a step's prefill rows, on the host: who is solved how, and that every tile lies where it
// should.
#include "kernels/cuda/prefill_plan.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>

namespace sessa::cuda {
namespace {

PrefillLimits Limits(int32_t max_rows, int32_t width = 1024) {
  PrefillLimits limits;
  limits.shape.width = width;
  limits.shape.heads = width % 64 == 0 ? width / 64 : 1;
  limits.shape.kv_heads = 1;
  limits.shape.layers = 1;
  limits.max_rows = max_rows;
  return limits;
}

// `count` chunks of `rows` rows, each on a past of `start`.
std::vector<PrefillSegment> Chunks(int32_t count, int32_t rows, int32_t start) {
  std::vector<PrefillSegment> segments;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t pages = (start + rows + kPageTokens - 1) / kPageTokens;
    segments.push_back({i * rows, rows, start, i * pages, i});
  }
  return segments;
}

// A plan and its table, behind which nothing may be written.
struct Planned {
  Planned(const PrefillLimits& limits, const std::vector<PrefillSegment>& segments)
      : limits(limits),
        workspace(MakeWorkspaceLayout(limits)),
        table(PrefillTableBytes(limits) + 64, '\xee') {
    plan = PlanPrefill(limits, segments.data(), static_cast<int32_t>(segments.size()), table.data());
    EXPECT_LE(plan.table_bytes, PrefillTableBytes(limits));
    for (size_t i = table.size() - 64; i < table.size(); ++i) EXPECT_EQ(table[i], '\xee');
  }
  template <class T>
  const T* List(int64_t offset) const {
    return reinterpret_cast<const T*>(table.data() + offset);
  }
  const ProductTile* Products(const PrefillRange& range) const {
    return List<ProductTile>(plan.offsets.product) + range.first;
  }

  PrefillLimits limits;
  WorkspaceLayout workspace;
  std::vector<char> table;
  PrefillPlan plan;
};

void CheckProducts(const Planned& planned, const PrefillRange& range, int32_t out_rows) {
  const ProductTile* tiles = planned.Products(range);
  for (int32_t i = 0; i < range.count; ++i) {
    ASSERT_GE(tiles[i].segment, 0);
    ASSERT_LT(tiles[i].segment, planned.plan.fast_segments);
    ASSERT_GE(tiles[i].steps, 0);
    ASSERT_GT(tiles[i].valid_rows, 0);
    ASSERT_LE(tiles[i].a_row + tiles[i].valid_rows, planned.plan.padded_rows);
    ASSERT_LE(tiles[i].out_row + tiles[i].valid_rows, out_rows);
    ASSERT_GE(tiles[i].out_column, 0);
  }
}

// Everything that kernels rely on.
void Check(const Planned& planned, const std::vector<PrefillSegment>& segments) {
  const PrefillPlan& plan = planned.plan;
  ASSERT_EQ(plan.segments.size(), segments.size());
  ASSERT_EQ(plan.fast_segments + plan.plain_segments.size(), segments.size());
  std::multiset<int32_t> all, split;
  for (const PrefillSegment& segment : segments) all.insert(segment.first_row);
  for (const PrefillSegment& segment : plan.plain_segments) split.insert(segment.first_row);
  const DeviceSegment* fast = planned.List<DeviceSegment>(plan.offsets.segments);
  int32_t base = 0, row_tiles = 0;
  for (int32_t i = 0; i < plan.fast_segments; ++i) {
    split.insert(fast[i].first_row);
    EXPECT_EQ(fast[i].base, base) << "workspace rows follow each other";
    EXPECT_EQ(fast[i].padded % kPageTokens, 0);
    EXPECT_GE(fast[i].padded, fast[i].lead + fast[i].rows);
    base += fast[i].padded;
    row_tiles += (fast[i].padded + kTileRows - 1) / kTileRows;
  }
  EXPECT_EQ(split, all) << "each segment is solved once";
  EXPECT_EQ(plan.padded_rows, base);
  EXPECT_EQ(plan.rows.count, row_tiles);
  if (plan.fast_segments == 0) return;
  ASSERT_LE(plan.padded_rows, planned.workspace.rows);
  ASSERT_LE(int64_t{plan.planes} * plan.padded_rows, std::max(planned.workspace.rows, plan.padded_rows));
  ASSERT_LE(int64_t{plan.padded_rows} * plan.panel_columns * 2, planned.workspace.panel_bytes);
  int64_t score = 0;
  for (const PrefillPlan::Panel& panel : plan.panels) {
    const ScoreTile* tiles = planned.List<ScoreTile>(plan.offsets.score) + panel.score.first;
    score += panel.score.count;
    for (int32_t i = 0; i < panel.score.count; ++i) {
      ASSERT_LE(tiles[i].out_row + tiles[i].valid_rows, plan.padded_rows);
      ASSERT_LE(tiles[i].column + kScoreColumns, plan.panel_columns);
    }
    CheckProducts(planned, panel.past, plan.planes * plan.padded_rows);
  }
  EXPECT_GT(score, 0);
  EXPECT_EQ(plan.right.count > 0, plan.planes == 1);
  CheckProducts(planned, plan.right, plan.padded_rows);
  for (const PrefillRange& level : plan.inverse) CheckProducts(planned, level, plan.padded_rows);
  for (const PrefillPlan::Solve& solve : plan.solve) CheckProducts(planned, solve.range, plan.padded_rows);
  EXPECT_TRUE(!plan.fuses || (plan.plain_segments.empty() && plan.panels.size() == 1 && plan.planes == 1));
}

// Sessions that get a few rows each, as the governor of chunks deals them.
TEST(PrefillPlanTest, ManyShortChunksAreAllSolvedByTensorCores) {
  struct Case {
    int32_t max_rows, count, rows, start;
    size_t panels;
  };
  for (const Case& c : {Case{512, 33, 2, 0, 1}, Case{512, 64, 8, 1000, 1}, Case{512, 64, 8, 4090, 1},
                        Case{512, 256, 2, 63, 1}, Case{2048, 256, 8, 1000, 1}, Case{2048, 256, 8, 4090, 2}}) {
    SCOPED_TRACE(testing::Message() << c.count << " x " << c.rows << " on " << c.start);
    const std::vector<PrefillSegment> segments = Chunks(c.count, c.rows, c.start);
    const Planned planned(Limits(c.max_rows), segments);
    Check(planned, segments);
    EXPECT_EQ(planned.plan.plain_segments.size(), 0u);
    EXPECT_EQ(planned.plan.panels.size(), c.panels);
    EXPECT_EQ(planned.plan.fuses, c.panels == 1);
  }
}

// So many chunks on long pasts of so wide a model make more tiles of products than of scores.
TEST(PrefillPlanTest, TheTableHoldsTheTilesOfTheWidestModel) {
  const std::vector<PrefillSegment> segments = Chunks(247, 16, 99'968);
  const Planned planned(Limits(4096, 12288), segments);
  Check(planned, segments);
  EXPECT_EQ(planned.plan.plain_segments.size(), 0u);
}

// Hundreds of very long sessions: what the table has no room for is solved by the plain kernels, beside the
// others.
TEST(PrefillPlanTest, PlainAndFastSegmentsShareAStep) {
  std::vector<PrefillSegment> segments = Chunks(256, 8, 400'000);
  segments[3].start = 0;
  const Planned planned(Limits(2048), segments);
  Check(planned, segments);
  EXPECT_GT(planned.plan.plain_segments.size(), 0u);
  EXPECT_GT(planned.plan.fast_segments, 100);
  EXPECT_FALSE(planned.plan.fuses);
  EXPECT_EQ(planned.plan.forward.count, 256) << "the forward kernel has no limit";
}

TEST(PrefillPlanTest, ShapesWithoutTensorCoresArePlain) {
  PrefillLimits other_cards = Limits(512), float32 = Limits(512);
  other_cards.tensor_cores = false;
  float32.state = StateDtype::kF32;
  for (const PrefillLimits& limits : {other_cards, float32, Limits(512, 90)}) {
    const std::vector<PrefillSegment> segments = Chunks(3, 100, 70);
    const Planned planned(limits, segments);
    Check(planned, segments);
    EXPECT_EQ(planned.plan.plain_segments.size(), 3u);
  }
}

std::vector<PrefillSegment> RandomSegments(const PrefillLimits& limits, std::mt19937* random) {
  const auto pick = [&](int64_t bound) { return static_cast<int32_t>((*random)() % bound); };
  const int32_t most = 1 + pick(std::min(limits.max_segments, limits.max_rows / 2));
  const int32_t longest_past = 1 << (6 + pick(14));
  std::vector<PrefillSegment> segments;
  int32_t row = 0, page = 0;
  for (int32_t i = 0; i < most && row + 2 <= limits.max_rows; ++i) {
    // Mostly even shares; now and then all that is left.
    const int32_t left = limits.max_rows - row, share = std::max(2, 2 * limits.max_rows / most);
    PrefillSegment segment;
    segment.first_row = row;
    segment.rows = pick(20) == 0 ? left : std::min(left, 2 + pick(share));
    segment.start =
        pick(3) == 0 ? pick(longest_past) : pick(longest_past) / kPageTokens * kPageTokens + pick(2) * 63;
    segment.page_begin = page;
    segment.open_page = i;
    row += segment.rows;
    page += (segment.start + segment.rows + kPageTokens - 1) / kPageTokens;
    segments.push_back(segment);
  }
  return segments;
}

TEST(PrefillPlanTest, RandomPlansStayWithinTheirTables) {
  std::mt19937 random(1);
  for (int32_t round = 0; round < 400; ++round) {
    SCOPED_TRACE(round);
    const int32_t widths[] = {8, 72, 384, 1024, 2048, 12288};
    const int32_t rows[] = {2, 64, 512, 2048, 4096, 16384};
    PrefillLimits limits = Limits(rows[random() % 6], widths[random() % 6]);
    limits.max_segments = 1 + random() % 512;
    limits.multiprocessors = random() % 2 == 0 ? 132 : 20;
    if (random() % 4 == 0) limits.panel_bytes = 1;
    const int32_t leaves[] = {128, 256, 512, 1024, 2048};
    limits.tuning.leaf = leaves[random() % 5];
    if (random() % 8 == 0) limits.tuning.past_columns = limits.tuning.solve_columns = 64;
    const std::vector<PrefillSegment> segments = RandomSegments(limits, &random);
    const Planned planned(limits, segments);
    Check(planned, segments);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace sessa::cuda
