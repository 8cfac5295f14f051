// The parts of PlanPrefill. Internal to prefill_plan*.cc.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cuda/prefill_tables.h"

namespace sessa::cuda {

inline int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// The lists of the table while they grow.
struct Lists {
  std::vector<DeviceSegment> segments;
  std::vector<ScoreTile> score;
  std::vector<ProductTile> product;
  std::vector<ForwardTile> forward;
  std::vector<LeafTile> leaves;
  std::vector<SolveRows> rows;
};

// The first column of the segment's panel `index` (0 is its last), and its end; end <= 0: it has none.
inline int32_t PanelOrigin(const DeviceSegment& segment, int32_t columns, int32_t index) {
  return std::max(0, segment.columns - (index + 1) * columns);
}
inline int32_t PanelEnd(const DeviceSegment& segment, int32_t columns, int32_t index) {
  return segment.columns - index * columns;
}

// prefill_plan_room.cc: what plans may take.

// Blocks that a launch should have at least, to fill the chip.
int64_t WantedBlocks(const PrefillLimits& limits);
// What a plan is made of: tiles of 128 rows of all fast segments, and score tiles, each rounded up by
// segment.
struct PlanSize {
  int64_t segments = 0, row_tiles = 0, score_tiles = 0, panels = 0;
};
// No plan of that size has a larger table.
int64_t TableBound(const PrefillLimits& limits, const PlanSize& size);

// prefill_plan_tiles.cc: the lists of tiles.

// Score tiles of the panel: all columns before a row block's end, ascending, so that blocks that run at the
// same time share their kb.
void AddScoreTiles(const PrefillPlan& plan, int32_t panel, Lists* lists);
// Tiles of planes[p] = [planes[p] +] P~ s over the panel's closed pages of the past; for the last panel of
// sums that are not split, those of the right-hand side, with or without a past.
void AddPastTiles(const PrefillPlan& plan, const PrefillLimits& limits, int32_t panel, bool right,
                  Lists* lists);
// Tiles of one level of the leaf inverses: pairs of blocks of `half` rows become one of twice as many.
void AddInverseTiles(const PrefillPlan& plan, int32_t half, bool second, Lists* lists);
// Tiles of the solve of leaf number `index` of every segment.
void AddSolveTiles(const PrefillPlan& plan, const PrefillLimits& limits, int32_t index, bool leaf,
                   Lists* lists);
void AddForwardTiles(PrefillPlan* plan, const PrefillLimits& limits, Lists* lists);

// prefill_plan_share.cc: shares the multiprocessors out between the forward kernel and the leaf inverses,
// which run beside it.
void ShareMultiprocessors(const PrefillLimits& limits, const Lists& lists, PrefillPlan* plan);

}  // namespace sessa::cuda
