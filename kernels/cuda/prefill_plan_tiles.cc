// The lists of tiles that the prefill kernels of a layer walk over.
#include <algorithm>

#include "kernels/cuda/prefill_plan.h"

namespace sessa::cuda {
namespace {

ScoreTile MakeScoreTile(const DeviceSegment& segment, int32_t row, int32_t column, int32_t origin,
                        int32_t end) {
  ScoreTile tile{};
  tile.qb_row = segment.first_row - segment.lead + row;
  tile.out_row = segment.base + row;
  tile.column = column;
  tile.valid_rows = std::min(kTileRows, segment.padded - row);
  tile.new_begin = segment.lead - row;
  tile.new_end = segment.lead + segment.rows - row;
  tile.diagonal = segment.block_start + row - origin - column;
  tile.end = end - origin - column;
  const int32_t last = (segment.start + segment.rows - 1) / kPageTokens;
  for (int32_t i = 0; i < 2; i++) {
    tile.pages[i] = segment.page_begin + std::min((origin + column) / kPageTokens + i, last);
  }
  return tile;
}

}  // namespace

void AddScoreTiles(const PrefillPlan& plan, int32_t panel, Lists* lists) {
  for (int32_t column = 0; column < plan.panel_columns; column += kScoreColumns) {
    for (size_t i = 0; i < lists->segments.size(); i++) {
      const DeviceSegment& segment = lists->segments[i];
      const int32_t origin = PanelOrigin(segment, plan.panel_columns, panel);
      const int32_t end = PanelEnd(segment, plan.panel_columns, panel);
      for (int32_t row = 0; row < segment.padded; row += kTileRows) {
        const int32_t row_end = segment.block_start + std::min(row + kTileRows, segment.padded);
        if (origin + column < std::min(end, row_end)) {
          lists->score.push_back(MakeScoreTile(segment, row, column, origin, end));
        }
      }
    }
  }
}

void AddPastTiles(const PrefillPlan& plan, const PrefillLimits& limits, int32_t panel, bool right,
                  Lists* lists) {
  for (size_t i = 0; i < lists->segments.size(); i++) {
    const DeviceSegment& segment = lists->segments[i];
    const int32_t origin = PanelOrigin(segment, plan.panel_columns, panel);
    const int32_t end = std::min(PanelEnd(segment, plan.panel_columns, panel), segment.block_start);
    const int32_t accumulate = origin > 0;  // panels of the past run from position 0 on: the first one stores
    if (end <= 0 && !right) continue;
    // No steps: the panel holds new rows only, and the sums so far are rescaled.
    const int32_t steps = std::max(0, (end - origin) / kPageTokens);
    for (int32_t plane = 0; plane < plan.planes; plane++) {
      const int32_t from = steps * plane / plan.planes, to = steps * (plane + 1) / plan.planes;
      for (int32_t row = 0; row < segment.padded; row += kTileRows) {
        for (int32_t n = 0; n < limits.shape.width; n += plan.tile_columns) {
          ProductTile tile{};
          tile.segment = static_cast<int32_t>(i);
          tile.a_row = segment.base + row;
          tile.a_column = from * kPageTokens;
          tile.b_row = origin + from * kPageTokens;
          tile.b_column = n;
          tile.steps = to - from;
          tile.valid_rows = std::min(kTileRows, segment.padded - row);
          tile.out_row = plane * plan.padded_rows + segment.base + row;
          tile.out_column = n;
          tile.extra = right ? 2 * row + accumulate : accumulate;
          lists->product.push_back(tile);
        }
      }
    }
  }
}

void AddInverseTiles(const PrefillPlan& plan, int32_t half, bool second, Lists* lists) {
  const int32_t width = plan.inverse_columns;
  for (size_t i = 0; i < lists->segments.size(); i++) {
    const DeviceSegment& segment = lists->segments[i];
    if (segment.substitute) continue;
    const int32_t chunk_column = segment.block_start - PanelOrigin(segment, plan.panel_columns, 0);
    for (int32_t pair = 0; pair + half < segment.padded; pair += 2 * half) {
      const int32_t leaf = pair / plan.leaf * plan.leaf;
      const int32_t low = pair + half, end = std::min(pair + 2 * half, segment.padded);
      const int32_t last = (end - 1 - low) / kTileRows * kTileRows + low;
      for (int32_t row = last; row >= low; row -= kTileRows) {  // the longest sums first
        for (int32_t n = 0; n < half; n += width) {
          ProductTile tile{};
          tile.segment = static_cast<int32_t>(i);
          tile.valid_rows = std::min(kTileRows, end - row);
          tile.a_row = tile.out_row = segment.base + row;
          if (!second) {  // T[:, n] = sigma (P21[:, n] + sum_{k >= n} P21[:, k] W11[k, n])
            tile.a_column = chunk_column + pair + n;
            tile.b_row = segment.base + pair + n;
            tile.b_column = pair - leaf + n;
            tile.steps = (half - n) / 64;
            tile.out_column = n;
            tile.extra = chunk_column + pair + n;
          } else {  // W21 = T + sum_{k < row end} W22[:, k] T[k, n]
            tile.a_column = low - leaf;
            tile.b_row = segment.base + low;
            tile.b_column = n;
            tile.steps = (row + tile.valid_rows - low + 63) / 64;
            tile.out_column = pair - leaf + n;
            tile.extra = n;
          }
          lists->product.push_back(tile);
        }
      }
    }
  }
}

void AddSolveTiles(const PrefillPlan& plan, const PrefillLimits& limits, int32_t index, bool leaf,
                   Lists* lists) {
  for (size_t i = 0; i < lists->segments.size(); i++) {
    const DeviceSegment& segment = lists->segments[i];
    const int32_t begin = index * plan.leaf, end = std::min(begin + plan.leaf, segment.padded);
    if (segment.substitute || begin >= segment.padded) continue;
    const int32_t chunk_column = segment.block_start - PanelOrigin(segment, plan.panel_columns, 0);
    const int32_t last = (end - 1 - begin) / kTileRows * kTileRows + begin;
    for (int32_t row = last; row >= begin; row -= kTileRows) {  // the longest sums of a leaf first
      for (int32_t n = 0; n < limits.shape.width; n += plan.solve_columns) {
        ProductTile tile{};
        tile.segment = static_cast<int32_t>(i);
        tile.valid_rows = std::min(kTileRows, end - row);
        tile.a_row = tile.out_row = segment.base + row;
        tile.a_column = leaf ? 0 : chunk_column;
        tile.b_row = segment.base + (leaf ? begin : 0);
        tile.b_column = tile.out_column = n;
        tile.steps = ((leaf ? row + tile.valid_rows - begin : begin) + 63) / 64;
        tile.extra = row;  // padded row
        lists->product.push_back(tile);
      }
    }
  }
}

void AddForwardTiles(PrefillPlan* plan, const PrefillLimits& limits, Lists* lists) {
  if (!FastForwardShape(limits)) return;
  for (const PrefillSegment& segment : plan->segments) {
    for (int32_t row = 0; row < segment.rows; row += kTileRows) {
      ForwardTile tile{};
      tile.first_row = segment.first_row + row;
      tile.rows = std::min(kTileRows, segment.rows - row);
      tile.position = segment.start + row;
      tile.end = segment.start + segment.rows;
      tile.page_begin = segment.page_begin;
      lists->forward.push_back(tile);
    }
  }
  std::stable_sort(
      lists->forward.begin(), lists->forward.end(), [](const ForwardTile& a, const ForwardTile& b) {
        return a.position + a.rows > b.position + b.rows;  // longest first: the short ones fill the end
      });
  plan->forward = {0, static_cast<int32_t>(lists->forward.size())};
}

}  // namespace sessa::cuda
