#include "kernels/host_state.h"

#include <cstring>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sessa {
namespace {

constexpr Plane kPlanes[] = {Plane::kK, Plane::kV, Plane::kKb, Plane::kS};

StateLayout Layout(StateDtype dtype) {
  ModelShape shape;
  shape.vocab = 97;
  shape.width = 72;
  shape.layers = 3;
  shape.heads = 4;
  shape.kv_heads = 2;
  return {shape, dtype};
}

TEST(HostState, RowsCoverTheSlabExactlyOnce) {
  for (StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    HostState state(Layout(dtype));
    ASSERT_TRUE(state.Allocate(3, 2).ok());
    const StateLayout& layout = state.layout();
    std::vector<int> touched(3 * layout.page_bytes());
    const std::byte* slab = state.Row(0, 0, Plane::kK);
    for (PageId page = 0; page < 3; ++page) {
      for (int32_t layer = 0; layer < 3; ++layer) {
        for (Plane plane : kPlanes) {
          for (int32_t row = 0; row < kPageTokens; ++row) {
            const int64_t offset = state.Row(page, layer, plane, row) - slab;
            const int64_t bytes = layout.PlaneWidth(plane) * layout.number_bytes();
            for (int64_t i = 0; i < bytes; ++i) ++touched.at(offset + i);
          }
        }
      }
    }
    EXPECT_THAT(std::set<int>(touched.begin(), touched.end()), testing::ElementsAre(1));
  }
}

TEST(HostState, ReadsBackWhatWasWrittenAndCopied) {
  HostState state(Layout(StateDtype::kCompact));
  ASSERT_TRUE(state.Allocate(2, 2).ok());
  state.HalfRow(0, 1, Plane::kS, 5)[7] = FloatToFP16(0.5f);
  state.HalfRow(0, 1, Plane::kKb, 5)[7] = FloatToBF16(-3.0f);
  state.OpenRow(0, 2, 63)[71] = 1.25f;
  state.CopyPage(0, 1);
  state.CopyOpenPage(0, 1);
  std::vector<float> row(72);
  ASSERT_TRUE(state.Read(1, 1, Plane::kS, 5, 1, row.data()).ok());
  EXPECT_EQ(row[7], 0.5f);
  ASSERT_TRUE(state.Read(1, 1, Plane::kKb, 5, 1, row.data()).ok());
  EXPECT_EQ(row[7], -3.0f);
  EXPECT_EQ(state.OpenRow(1, 2, 63)[71], 1.25f);
}

TEST(HostState, RandomStateFillsEveryPlane) {
  for (StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    HostState state(Layout(dtype));
    ASSERT_TRUE(state.Allocate(2, 1).ok());
    state.FillRandom(4);
    for (Plane plane : kPlanes) {
      std::vector<float> rows(kPageTokens * state.layout().PlaneWidth(plane));
      ASSERT_TRUE(state.Read(1, 2, plane, 0, kPageTokens, rows.data()).ok());
      EXPECT_THAT(rows, testing::Each(testing::AllOf(testing::Ge(-1.0f), testing::Le(1.0f))));
      EXPECT_GT(std::set<float>(rows.begin(), rows.end()).size(), rows.size() / 10);
    }
  }
}

TEST(HostState, RefusesWhatCannotBe) {
  HostState state(Layout(StateDtype::kCompact));
  EXPECT_EQ(state.Allocate(0, 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(state.Allocate(1, 0).code(), absl::StatusCode::kInvalidArgument);
  const absl::Status too_much = state.Allocate(1 << 30, 1);
  EXPECT_EQ(too_much.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(too_much.message()), testing::HasSubstr("are free"));
  ASSERT_TRUE(state.Allocate(1, 1).ok());
  EXPECT_EQ(state.Allocate(1, 1).code(), absl::StatusCode::kFailedPrecondition);
  float number;
  for (const auto& [page, layer, row] :
       {std::tuple{1, 0, 0}, {-1, 0, 0}, {0, 3, 0}, {0, -1, 0}, {0, 0, 64}, {0, 0, -1}}) {
    EXPECT_EQ(state.Read(page, layer, Plane::kK, row, 1, &number).code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace sessa
