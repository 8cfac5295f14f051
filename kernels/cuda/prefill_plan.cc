// The schedule of a step's prefill rows: which tiles each launch of a layer works on.
#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/cuda/prefill_linear.h"
#include "kernels/cuda/prefill_plan.h"

namespace sessa::cuda {
namespace {

constexpr int kSubstituteRows = 64;  // a chunk of at most so many rows needs no inverse

DeviceSegment PadSegment(const PrefillSegment& segment) {
  DeviceSegment padded{};
  padded.first_row = segment.first_row;
  padded.rows = segment.rows;
  padded.start = segment.start;
  padded.page_begin = segment.page_begin;
  padded.open_page = segment.open_page;
  padded.lead = segment.start % kPageTokens;
  padded.block_start = segment.start - padded.lead;
  padded.padded = static_cast<int32_t>(RoundUp(padded.lead + segment.rows, kPageTokens));
  padded.columns = padded.block_start + padded.padded;
  padded.substitute = segment.rows <= kSubstituteRows && padded.padded <= kBaseLeaf;
  return padded;
}

// Columns of a panel for so many rows whose segments have up to `columns`.
int32_t PanelColumns(const WorkspaceLayout& workspace, int64_t padded_rows, int64_t columns) {
  const int64_t room = workspace.panel_bytes / (2 * padded_rows) / kScoreColumns * kScoreColumns;
  return static_cast<int32_t>(std::min(columns, room));
}

// Splits the segments between the tensor-core kernels (appended to lists) and the plain ones, which take what
// the former cannot and what the table has no room for: of hundreds of segments, those on pasts of hundreds
// of thousands.
void ChooseKernels(const PrefillLimits& limits, const WorkspaceLayout& workspace, PrefillPlan* plan,
                   Lists* lists) {
  const bool fast = FastFeedbackShape(limits);
  const int64_t table_bytes = PrefillTableBytes(limits);
  PlanSize size;
  int64_t columns = 0, padded_rows = 0;
  for (const PrefillSegment& segment : plan->segments) {
    DeviceSegment padded = PadSegment(segment);
    const int64_t row_tiles = RoundUp(padded.padded, kTileRows) / kTileRows;
    const int64_t all_rows = padded_rows + padded.padded;
    const int64_t all_columns = std::max<int64_t>(columns, RoundUp(padded.columns, kScoreColumns));
    PlanSize larger = size;
    if (fast) {
      larger.row_tiles += row_tiles;
      larger.segments += 1;
      larger.panels = (all_columns - 1) / PanelColumns(workspace, all_rows, all_columns) + 1;
      larger.score_tiles += row_tiles * (padded.columns / kScoreColumns + 2);  // of the first panel a part
    }
    if (!fast || all_rows > workspace.rows || TableBound(limits, larger) > table_bytes) {
      plan->plain_segments.push_back(segment);
      continue;
    }
    size = larger;
    padded.base = static_cast<int32_t>(padded_rows);
    padded_rows = all_rows;
    columns = all_columns;
    lists->segments.push_back(padded);
  }
  plan->fast_segments = static_cast<int32_t>(lists->segments.size());
  plan->padded_rows = static_cast<int32_t>(padded_rows);
  if (padded_rows > 0) plan->panel_columns = PanelColumns(workspace, padded_rows, columns);
}

// Columns of a tile and number of splits so that a launch has enough blocks: the widest that does.
int32_t TileColumns(int64_t row_tiles, int32_t width, int64_t wanted_blocks) {
  for (int32_t columns : {256, 128}) {
    if (row_tiles * ((width + columns - 1) / columns) >= wanted_blocks) return columns;
  }
  return 64;
}

void ChooseSplits(const PrefillLimits& limits, const WorkspaceLayout& workspace, PrefillPlan* plan,
                  Lists* lists) {
  int64_t row_tiles = 0, past = 0;
  for (const DeviceSegment& segment : lists->segments) {
    row_tiles += RoundUp(segment.padded, kTileRows) / kTileRows;
    past = std::max<int64_t>(past, segment.block_start);
  }
  const int64_t wanted = WantedBlocks(limits);
  plan->tile_columns = limits.tuning.past_columns;
  if (plan->tile_columns == 0) {
    // Narrow tiles before splits, but not the narrowest.
    plan->tile_columns = std::max(128, TileColumns(row_tiles, limits.shape.width, wanted));
  }
  const int64_t blocks = row_tiles * ((limits.shape.width + plan->tile_columns - 1) / plan->tile_columns);
  int32_t planes = 1;
  while (planes < kMaxPlanes && blocks * planes < wanted && past / (planes * 2) >= 512 &&
         int64_t{planes} * 2 * plan->padded_rows <= workspace.rows) {
    planes *= 2;
  }
  plan->planes = planes;
  for (DeviceSegment& segment : lists->segments) segment.planes = segment.block_start > 0 ? planes : 0;
}

template <class T>
void Pack(const std::vector<T>& list, char* table, int64_t* offset, int64_t* end) {
  *offset = *end;
  *end = RoundUp(*end + list.size() * sizeof(T), 64);
  if (!list.empty()) std::memcpy(table + *offset, list.data(), list.size() * sizeof(T));
}

int64_t TableEnd(const Lists& lists) {
  const auto bytes = [](const auto& list) { return RoundUp(list.size() * sizeof list[0], 64); };
  return bytes(lists.segments) + bytes(lists.score) + bytes(lists.product) + bytes(lists.forward) +
         bytes(lists.leaves) + bytes(lists.rows);
}

// Appends with `add` and returns the range it made.
template <class Add>
PrefillRange Append(const std::vector<ProductTile>& list, const Add& add) {
  const int32_t first = static_cast<int32_t>(list.size());
  add();
  return {first, static_cast<int32_t>(list.size()) - first};
}

void AddPanels(const PrefillLimits& limits, PrefillPlan* plan, Lists* lists) {
  int32_t panels = 0;
  for (const DeviceSegment& segment : lists->segments) {
    panels = std::max(panels, (segment.columns + plan->panel_columns - 1) / plan->panel_columns);
  }
  for (int32_t index = panels - 1; index >= 0; index--) {
    PrefillPlan::Panel panel;
    panel.index = index;
    panel.score.first = static_cast<int32_t>(lists->score.size());
    AddScoreTiles(*plan, index, lists);
    panel.score.count = static_cast<int32_t>(lists->score.size()) - panel.score.first;
    const bool right = index == 0 && plan->planes == 1;
    (right ? plan->right : panel.past) =
        Append(lists->product, [&] { AddPastTiles(*plan, limits, index, right, lists); });
    plan->panels.push_back(panel);
  }
}

void AddSolve(const PrefillLimits& limits, PrefillPlan* plan, Lists* lists) {
  const int64_t wanted = WantedBlocks(limits);
  int32_t inverted = 0;  // rows of the longest segment that is solved by inverses
  int64_t row_tiles = 0;
  for (size_t i = 0; i < lists->segments.size(); i++) {
    const DeviceSegment& segment = lists->segments[i];
    for (int32_t row = 0; row < segment.padded; row += kTileRows) {
      lists->rows.push_back({static_cast<int32_t>(i), row});
    }
    if (segment.substitute) {
      plan->substitutes = true;
      continue;
    }
    inverted = std::max(inverted, segment.padded);
    row_tiles += (std::min(segment.padded, limits.tuning.leaf) + kTileRows - 1) / kTileRows;
    const int32_t chunk_column = segment.block_start - PanelOrigin(segment, plan->panel_columns, 0);
    for (int32_t pair = 0; pair < segment.padded; pair += 2 * kBaseLeaf) {
      const int32_t joined = limits.tuning.leaf > kBaseLeaf && pair + kBaseLeaf < segment.padded;
      for (const int32_t row : {pair, pair + kBaseLeaf}) {
        lists->leaves.push_back(
            {static_cast<int32_t>(i), row, chunk_column + row, row % limits.tuning.leaf, joined});
      }
    }
  }
  plan->rows = {0, static_cast<int32_t>(lists->rows.size())};
  plan->leaves = {0, static_cast<int32_t>(lists->leaves.size())};
  plan->leaf = limits.tuning.leaf;
  plan->solve_columns = limits.tuning.solve_columns;
  if (plan->solve_columns == 0) {
    plan->solve_columns = TileColumns(row_tiles, limits.shape.width, wanted);
  }
  plan->inverse_columns = limits.tuning.inverse_columns;
  if (plan->inverse_columns == 0) plan->inverse_columns = row_tiles >= limits.multiprocessors / 4 ? 128 : 64;
  for (int32_t half = 2 * kBaseLeaf; half < std::min(limits.tuning.leaf, inverted); half *= 2) {
    for (bool second : {false, true}) {
      plan->inverse.push_back(Append(lists->product, [&] { AddInverseTiles(*plan, half, second, lists); }));
    }
  }
  for (int32_t index = 0; index * limits.tuning.leaf < inverted; index++) {
    if (index > 0) {
      plan->solve.push_back(
          {Append(lists->product, [&] { AddSolveTiles(*plan, limits, index, false, lists); }), false});
    }
    plan->solve.push_back(
        {Append(lists->product, [&] { AddSolveTiles(*plan, limits, index, true, lists); }), true});
  }
}

}  // namespace

bool FastFeedbackShape(const PrefillLimits& limits) {
  return limits.tensor_cores && limits.state == StateDtype::kCompact && limits.shape.width % 8 == 0;
}

bool FastForwardShape(const PrefillLimits& limits) {
  const int32_t width = limits.shape.head_width();
  return limits.tensor_cores && limits.state == StateDtype::kCompact && (width == 64 || width == 128);
}

const char* PrefillKind(const PrefillLimits& limits) {
  if (!FastFeedbackShape(limits)) return "plain (slow)";
  return FastForwardShape(limits) ? "tensor-core" : "tensor-core (plain forward attention)";
}

bool FastLinearShape(const PrefillLimits& limits) {
  return FastFeedbackShape(limits) && limits.shape.head_width() % 8 == 0;
}

PrefillPlan PlanPrefill(const PrefillLimits& limits, const PrefillSegment* segments, int32_t count,
                        void* table) {
  const WorkspaceLayout workspace = MakeWorkspaceLayout(limits);
  PrefillPlan plan;
  Lists lists;
  plan.segments.assign(segments, segments + count);
  ChooseKernels(limits, workspace, &plan, &lists);
  if (plan.fast_segments > 0) {
    ChooseSplits(limits, workspace, &plan, &lists);
    AddPanels(limits, &plan, &lists);
    AddSolve(limits, &plan, &lists);
    plan.fuses = plan.plain_segments.empty() && plan.planes == 1 && plan.panels.size() == 1;
  }
  AddForwardTiles(&plan, limits, &lists);
  ShareMultiprocessors(limits, lists, &plan);
  assert(TableEnd(lists) <= PrefillTableBytes(limits));  // ChooseKernels has seen to it
  char* bytes = static_cast<char*>(table);
  Pack(lists.segments, bytes, &plan.offsets.segments, &plan.table_bytes);
  Pack(lists.score, bytes, &plan.offsets.score, &plan.table_bytes);
  Pack(lists.product, bytes, &plan.offsets.product, &plan.table_bytes);
  Pack(lists.forward, bytes, &plan.offsets.forward, &plan.table_bytes);
  Pack(lists.leaves, bytes, &plan.offsets.leaves, &plan.table_bytes);
  Pack(lists.rows, bytes, &plan.offsets.rows, &plan.table_bytes);
  return plan;
}

}  // namespace sessa::cuda
