// What PlanPrefill writes for the kernels, and how the workspace is divided. Internal to prefill_*.
//
// A fast segment's workspace rows begin at the 64-token block that holds its first token, so that rows and
// columns of the weights lie alike: padded row i is position block_start + i; rows before `lead` are past
// tokens of that block (their s is known and their weights are zero), rows from lead + rows on are padding
// (all zero). `base` is the workspace row of padded row 0. Column j of a panel is position origin + j, origin
// a multiple of 64.
#pragma once

#include <cstdint>

#include "kernels/cuda/prefill.h"

namespace sessa::cuda {

inline constexpr int kTileRows = 128;      // rows of every tile
inline constexpr int kScoreColumns = 128;  // columns of a score tile: the unit of a row's running maximum
inline constexpr int kBaseLeaf = 128;      // rows of an inverse that a block of threads makes
inline constexpr int kMaxPlanes = 4;       // split of the past's contribution, for more tiles

struct DeviceSegment {
  int32_t first_row, rows, start, page_begin, open_page;
  int32_t base;         // workspace row of padded row 0
  int32_t padded;       // padded rows, a multiple of 64
  int32_t lead;         // start % 64
  int32_t block_start;  // start - lead
  int32_t columns;      // block_start + padded: columns over all panels
  int32_t planes;       // partial sums of the past's contribution; 0: no past before block_start
  int32_t substitute;   // solved row by row, without an inverse
};

// A tile of weights: 128 padded rows of a segment, panel columns [column, column + 128). A record of its own
// says all that the kernel needs, so that it waits for memory once.
struct ScoreTile {
  int32_t qb_row;   // of the step's activations: of the tile's first row (before the segment: not used)
  int32_t out_row;  // workspace row of the tile's first row
  int32_t column;
  int32_t valid_rows;          // rows of the tile that the workspace has
  int32_t new_begin, new_end;  // rows of the tile that are new
  int32_t diagonal;            // row r of the tile sees columns c < min(r + diagonal, end) of the tile
  int32_t end;
  int32_t pages[2];  // places of the columns' pages in the page table
};

// A tile of a product out(rows, n..) = A(rows, k) B(k, n..): A is two-byte, (workspace rows, a_column + k), k
// from 0 to 64 steps; B is the s of pages from column (position) b_row, or workspace rows b_row + k, columns
// b_column on.
struct ProductTile {
  int32_t segment;
  int32_t a_row, a_column;  // workspace row, column
  int32_t b_row, b_column;
  int32_t steps;                // of 64 k
  int32_t valid_rows;           // of the 128
  int32_t out_row, out_column;  // as the kernel's epilogue defines them
  int32_t extra;                // likewise
};

struct ForwardTile {
  int32_t first_row;   // of the step's activations
  int32_t rows;        // of the tile
  int32_t position;    // of the first row
  int32_t end;         // of the segment: positions before it have k and v
  int32_t page_begin;  // place of the segment's page 0 in the page table
};

// Two entries after each other are a pair of blocks.
struct LeafTile {
  int32_t segment, row, column;  // padded row of the 128 x 128 diagonal block, and its panel column
  int32_t leaf_column;           // its column in the leaf inverse
  int32_t joined;                // the pair becomes one inverse of 256 rows
};

struct SolveRows {  // 128 padded rows of a fast segment, for row-wise kernels
  int32_t segment, row;
};

// Offsets of the buffers in the workspace, in bytes. `rows` workspace rows in all, D padded to 64 columns.
struct WorkspaceLayout {
  int32_t rows;   // capacity
  int32_t width;  // row length of r, r_half, s_half
  int64_t panel_bytes;
  int64_t panel;      // half (padded_rows, panel_columns): P~
  int64_t stats;      // float2 (padded_rows, panel_columns / 128): maximum and sum of a row in a score tile
  int64_t row_state;  // float (4, rows): running maximum, running sum, sigma, 2^(old - new maximum)
  int64_t inverse;    // half (rows, kMaxLeaf): W
  int64_t product;    // half (rows, kMaxLeaf / 2): T
  int64_t planes;     // float (planes, padded_rows, width), at most `rows` rows in all: past contributions
  int64_t r;          // float (rows, width)
  int64_t r_half;     // half (rows, width)
  int64_t s_half;     // half (rows, width)
  int64_t plain;      // float scores of the plain kernels: plain_bytes
  int64_t plain_bytes;
  int64_t bytes;
};
inline constexpr int kMaxLeaf = 2048;
WorkspaceLayout MakeWorkspaceLayout(const PrefillLimits& limits);

// True when the tensor-core kernels can run this shape (their head widths for `forward`).
bool FastFeedbackShape(const PrefillLimits& limits);
bool FastForwardShape(const PrefillLimits& limits);

}  // namespace sessa::cuda
