// How a matrix product is cut for the threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/kernels.h"

namespace sessa::cpu {

inline constexpr int32_t kTileRows = 64;  // at most, in a tile

// Rows are cut into even chunks of at most kTileRows; panels are cut as well when there are few rows, so that
// each thread gets several tiles. Tiles that share rows are neighbours.
class Tiling {
 public:
  Tiling(int32_t rows, int32_t panels, int32_t threads)
      : rows_(rows),
        panels_(panels),
        row_chunks_((rows + kTileRows - 1) / kTileRows),
        panel_chunks_(std::clamp(kTilesPerThread * threads / std::max(1, row_chunks_), 1, panels)) {}

  int32_t tiles() const { return row_chunks_ * panel_chunks_; }
  Tile tile(int32_t i) const {
    const int64_t r = i / panel_chunks_, p = i % panel_chunks_;
    return {static_cast<int32_t>(rows_ * r / row_chunks_),
            static_cast<int32_t>(rows_ * (r + 1) / row_chunks_),
            static_cast<int32_t>(panels_ * p / panel_chunks_),
            static_cast<int32_t>(panels_ * (p + 1) / panel_chunks_)};
  }

 private:
  static constexpr int32_t kTilesPerThread =
      12;  // for even shares of some ten panels; 1 panel is some 10 us at one row

  int32_t rows_, panels_, row_chunks_, panel_chunks_;
};

}  // namespace sessa::cpu
