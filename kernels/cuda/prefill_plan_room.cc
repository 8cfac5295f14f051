// What plans may take: the workspace and the table, sized so that whatever a step may bring has room in them.
#include <algorithm>

#include "kernels/cuda/prefill_plan.h"

namespace sessa::cuda {
namespace {

constexpr int64_t kScoreBytes = int64_t{16} << 20;  // of score tiles: 256 segments on pasts of 200,000

// Takes `bytes` from a buffer that grows; 1 KiB alignment.
int64_t Take(int64_t* end, int64_t bytes) {
  const int64_t offset = *end;
  *end = RoundUp(*end + bytes, 1024);
  return offset;
}

int64_t Segments(const PrefillLimits& limits) { return std::min(limits.max_segments, limits.max_rows); }

// Padded rows of all segments of a step: each may begin with the last row of a block and end with the first.
int64_t MostPaddedRows(const PrefillLimits& limits) {
  return limits.max_rows + 2 * (kPageTokens - 1) * Segments(limits);
}

int64_t TilesAcross(const PrefillLimits& limits, int64_t columns) {
  return (limits.shape.width + columns - 1) / columns;
}

// Tiles of the past's contribution in a panel. Where the widest are fewer than wanted they are halved, or
// split into planes, until they are not.
int64_t PastTiles(const PrefillLimits& limits, int64_t row_tiles) {
  const int64_t columns = limits.tuning.past_columns != 0 ? limits.tuning.past_columns : 256;
  return std::max(row_tiles * TilesAcross(limits, columns), 2 * WantedBlocks(limits));
}

}  // namespace

int64_t WantedBlocks(const PrefillLimits& limits) { return limits.multiprocessors * 3 / 4; }

int64_t TableBound(const PrefillLimits& limits, const PlanSize& size) {
  // The solve's leaves and what comes before them, 64 columns at a time; the inverses, two launches a level,
  // kMaxLeaf columns in all levels together.
  const int64_t product = size.panels * PastTiles(limits, size.row_tiles) +
                          2 * size.row_tiles * (TilesAcross(limits, 64) + kMaxLeaf / 64);
  const int64_t rows = size.row_tiles * static_cast<int64_t>(sizeof(SolveRows) + 2 * sizeof(LeafTile)) +
                       size.segments * static_cast<int64_t>(sizeof(DeviceSegment));
  // The forward kernel takes the plain segments, too.
  const int64_t forward = (limits.max_rows / kTileRows + limits.max_segments) * int64_t{sizeof(ForwardTile)};
  constexpr int64_t kAlignment = 6 * 64;  // of six lists
  return size.score_tiles * static_cast<int64_t>(sizeof(ScoreTile)) +
         product * static_cast<int64_t>(sizeof(ProductTile)) + rows + forward + kAlignment;
}

int64_t PrefillTableBytes(const PrefillLimits& limits) {
  PlanSize most;
  most.segments = limits.max_segments;
  most.row_tiles = MostPaddedRows(limits) / kPageTokens;  // of one block each
  most.panels = 1;
  return RoundUp(kScoreBytes + TableBound(limits, most), 4096);
}

WorkspaceLayout MakeWorkspaceLayout(const PrefillLimits& limits) {
  WorkspaceLayout layout{};
  const bool fast = FastFeedbackShape(limits);
  // Room for all segments, padded; and for the planes of so few rows that their sums are split.
  const int64_t few = RoundUp(2 * WantedBlocks(limits) * kTileRows / TilesAcross(limits, 128), kTileRows);
  const int64_t planes = std::min(kMaxPlanes * RoundUp(limits.max_rows, kTileRows), few);
  const int64_t padded = RoundUp(MostPaddedRows(limits), kTileRows);
  layout.rows = fast ? static_cast<int32_t>(std::max<int64_t>({padded, planes, 512})) : 0;
  layout.width = static_cast<int32_t>(RoundUp(limits.shape.width, 64));
  const int64_t rows = layout.rows, width = layout.width;
  // A panel holds at least the columns of the new rows.
  const int64_t least = rows * RoundUp(limits.max_rows + 2 * kPageTokens, kScoreColumns) * 2;
  layout.panel_bytes = fast ? std::max(limits.panel_bytes, least) : 0;
  layout.panel = Take(&layout.bytes, layout.panel_bytes);
  layout.stats = Take(&layout.bytes, layout.panel_bytes / 2 / kScoreColumns * 8);
  layout.row_state = Take(&layout.bytes, 4 * rows * 4);
  layout.inverse = Take(&layout.bytes, rows * kMaxLeaf * 2);
  layout.product = Take(&layout.bytes, rows * kMaxLeaf / 2 * 2);
  layout.planes = Take(&layout.bytes, rows * width * 4);
  layout.r = Take(&layout.bytes, rows * width * 4);
  layout.r_half = Take(&layout.bytes, rows * width * 2);
  layout.s_half = Take(&layout.bytes, rows * width * 2);
  // The plain kernels take as many rows at a time as their scores fit, one at least.
  layout.plain_bytes =
      std::max<int64_t>(int64_t{4} * 16 * (int64_t{limits.max_context} + kPageTokens), 16 << 20);
  layout.plain = Take(&layout.bytes, layout.plain_bytes);
  return layout;
}

int64_t PrefillWorkspaceBytes(const PrefillLimits& limits) { return MakeWorkspaceLayout(limits).bytes; }

}  // namespace sessa::cuda
