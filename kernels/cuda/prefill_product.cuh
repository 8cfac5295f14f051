// The products of the feedback solve, all of one form: fp16 weights or inverses (rows, k) times fp16 rows (k,
// n).
#pragma once

#include <type_traits>

#include "kernels/cuda/prefill_append.cuh"
#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_tiles.cuh"

namespace sessa::cuda {

template <ProductKind kProduct, int kTileColumns>
struct ProductOp {
  static constexpr int kColumns = kTileColumns;
  static constexpr int kTransposeB = 1;
  static constexpr bool kFromPages =
      kProduct == ProductKind::kPast || kProduct == ProductKind::kRight || kProduct == ProductKind::kRightOut;
  static constexpr bool kConstantB = false;
  static constexpr bool kThenLinear = kProduct == ProductKind::kRightOut;
  using Element = __half;
  using Tile = ProductTile;
  struct Source {
    const int32_t* pages;
    int o_row;  // of the tile's first row; may lie before the first (those rows belong to no one)
  };

  CUtensorMap a, b;
  CUtensorMap o, out_weight;  // kRightOut
  const ProductTile* tiles;
  int count;
  PrefillBuffers buffers;
  SolveOperands operands;

  __device__ void Prefetch() const {
    PrefetchMap(&a);
    PrefetchMap(&b);
    if constexpr (kThenLinear) {
      PrefetchMap(&o);
      PrefetchMap(&out_weight);
    }
  }

  __device__ Tile TileAt(int index) const { return tiles[index]; }

  __device__ int Steps(const Tile& tile) const { return tile.steps; }

  __device__ int LinearSteps(const Tile&) const { return (buffers.D + kStepDepth - 1) / kStepDepth; }

  __device__ Source Prepare(const Tile& tile) const {
    if constexpr (kFromPages) {
      const DeviceSegment& segment = buffers.segments[tile.segment];
      return {buffers.page_table + segment.page_begin + tile.b_row / kPageTokens,
              segment.first_row - segment.lead + tile.extra / 2};
    }
    return {nullptr, 0};
  }

  __device__ void LoadA(const Tile& tile, const Source& source, int step, uint8_t* to,
                        uint64_t* barrier) const {
    if (kThenLinear && step >= tile.steps) {
      CopyBox(to, &o, barrier, (step - tile.steps) * kStepDepth, source.o_row);
    } else {
      CopyBox(to, &a, barrier, tile.a_column + step * kStepDepth, tile.a_row);
    }
  }

  __device__ void LoadB(const Tile& tile, const Source& source, int step, uint8_t* to,
                        uint64_t* barrier) const {
    if (kThenLinear && step >= tile.steps) {
      return CopyBox(to, &out_weight, barrier, (step - tile.steps) * kStepDepth, tile.b_column);
    }
    const int page = kFromPages ? source.pages[step] : 0;
#pragma unroll
    for (int n = 0; n < kColumns; n += 64) {
      if constexpr (kFromPages) {
        CopyBox(to + n / 64 * kBoxBytes, &b, barrier, tile.b_column + n, 0, page);
      } else {
        CopyBox(to + n / 64 * kBoxBytes, &b, barrier, tile.b_column + n, tile.b_row + step * kStepDepth);
      }
    }
  }

  // Whether the values that the sums join are loaded while the tile is multiplied (or, for want of registers,
  // afterwards).
  static constexpr bool kPreload =
      kProduct != ProductKind::kPast && kProduct != ProductKind::kRightOut && kColumns <= 128;
  static constexpr bool kOldIsHalf =
      kProduct == ProductKind::kInverseLeft || kProduct == ProductKind::kInverse;
  using Old = std::conditional_t<kOldIsHalf, __half2, float2>;

  // Of the thread's rows, row and row + 8 of the tile.
  struct Epilogue {
    bool valid[2];
    float factor[2];   // sigma
    float rescale[2];  // what the past's sums so far are brought to the new maximum with; 0: there are none
    const float* right[2];  // f or known s of the row; null: padding
    bool is_new[2];         // kRightOut
    SolvedRow solved[2];
    Old old[2][kPreload ? kColumns / 8 : 1];
    float2 gate[2][kProduct == ProductKind::kLeaf && kPreload ? kColumns / 8 : 1];  // g, where u is wanted
  };

  // Of the tile: the first of the thread's two columns of accumulators 4 j and on.
  static __device__ int Column(int j) { return 8 * j + 2 * (threadIdx.x % 4); }

  __device__ Epilogue Begin(const Tile& tile, int row) const {
    Epilogue epilogue;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int tile_row = row + 8 * half;
      const int64_t a_row = tile.a_row + tile_row;
      epilogue.valid[half] = tile_row < tile.valid_rows;
      epilogue.factor[half] = epilogue.rescale[half] = 0;
      epilogue.right[half] = nullptr;
      epilogue.is_new[half] = false;
      if (!epilogue.valid[half]) continue;
      if constexpr (kProduct != ProductKind::kPast && kProduct != ProductKind::kInverse &&
                    kProduct != ProductKind::kLeaf) {
        epilogue.factor[half] = buffers.sigma[a_row];
      }
      if constexpr (kFromPages) {
        if (tile.extra & 1) epilogue.rescale[half] = buffers.rescale[a_row];
      }
      if constexpr (kProduct == ProductKind::kRight || kProduct == ProductKind::kRightOut) {
        const DeviceSegment& segment = buffers.segments[tile.segment];
        const int i = tile.extra / 2 + tile_row;
        epilogue.right[half] = RightRow(segment, i);
        epilogue.is_new[half] = i >= segment.lead && i < segment.lead + segment.rows;
      }
      if constexpr (kProduct == ProductKind::kLeaf) {
        epilogue.solved[half] =
            FindSolvedRow(buffers, buffers.segments[tile.segment], tile.extra + tile_row, operands);
      }
      if constexpr (kPreload) {
#pragma unroll
        for (int j = 0; j < kColumns / 8; j++)
          epilogue.old[half][j] = LoadOld(tile, epilogue, half, tile_row, j);
      }
      if constexpr (kProduct == ProductKind::kLeaf && kPreload) {
#pragma unroll
        for (int j = 0; j < kColumns / 8; j++)
          epilogue.gate[half][j] = LoadGate(tile, epilogue.solved[half], j);
      }
    }
    return epilogue;
  }

  // Column 0 of what the right-hand side of padded row i begins with.
  __device__ const float* RightRow(const DeviceSegment& segment, int i) const {
    if (i < segment.lead) {
      return reinterpret_cast<const float*>(buffers.open_plane +
                                            segment.open_page * buffers.open_page_bytes) +
             static_cast<int64_t>(i) * buffers.D;
    }
    if (kThenLinear || i >= segment.lead + segment.rows) return nullptr;
    return operands.f + static_cast<int64_t>(segment.first_row + i - segment.lead) * buffers.D;
  }

  // What the sums join: P~, T, f or r, at the thread's columns Column(j) of the tile.
  __device__ Old LoadOld(const Tile& tile, const Epilogue& epilogue, int half, int tile_row, int j) const {
    const int64_t out_row = tile.out_row + tile_row;
    const int n = Column(j), column = tile.out_column + n;
    if constexpr (kProduct == ProductKind::kInverseLeft) {
      return *reinterpret_cast<const __half2*>(buffers.panel + out_row * buffers.panel_columns + tile.extra +
                                               n);
    } else if constexpr (kProduct == ProductKind::kInverse) {
      return *reinterpret_cast<const __half2*>(buffers.product + out_row * (kMaxLeaf / 2) + tile.extra + n);
    } else if constexpr (kProduct == ProductKind::kRight || kProduct == ProductKind::kRightOut) {
      if (epilogue.right[half] == nullptr || column >= buffers.D) return make_float2(0, 0);
      return *reinterpret_cast<const float2*>(epilogue.right[half] + column);
    } else if constexpr (kProduct == ProductKind::kPast) {
      return make_float2(0, 0);
    } else {
      if (column >= buffers.width) return make_float2(0, 0);
      return *reinterpret_cast<const float2*>(buffers.r + out_row * buffers.width + column);
    }
  }

  __device__ float2 LoadGate(const Tile& tile, const SolvedRow& solved, int j) const {
    const int column = tile.out_column + Column(j);
    if (solved.g == nullptr || column >= buffers.D) return make_float2(0, 0);
    return *reinterpret_cast<const float2*>(solved.g + column);
  }

  __device__ void Finish(const Tile& tile, const Epilogue& epilogue, float (&acc)[kColumns / 2],
                         int row) const {
    int saturated = 0;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int tile_row = row + 8 * half;
      const bool valid = epilogue.valid[half];
#pragma unroll
      for (int j0 = 0; j0 < kColumns / 8; j0 += 4) {
        float2 value[4];
        uint32_t packed[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
          const int j = j0 + k;
          Old old = Old();
          if constexpr (kPreload) {
            if (valid) old = epilogue.old[half][j];
          } else {
            if (valid) old = LoadOld(tile, epilogue, half, tile_row, j);
          }
          value[k] = Join(tile, epilogue, half, tile_row, j, old,
                          make_float2(acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]));
          const __half2 rounded = ClampToHalf(value[k]);
          packed[k] = *reinterpret_cast<const uint32_t*>(&rounded);
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
          if (valid) saturated += StoreFloats(tile, epilogue, half, tile_row, j0 + k, value[k]);
        }
        if constexpr (kProduct != ProductKind::kPast) {
          QuadTranspose(packed);  // 16 bytes a lane, 64 of a row
          if (valid) {
            StoreHalves(tile, epilogue.solved[half], tile_row, 8 * (j0 + threadIdx.x % 4),
                        make_uint4(packed[0], packed[1], packed[2], packed[3]));
          }
        }
      }
    }
    if constexpr (kProduct == ProductKind::kLeaf) CountSaturations(operands, saturated);
  }

  // The result from the sum and what it joins.
  __device__ float2 Join(const Tile& tile, const Epilogue& epilogue, int half, int tile_row, int j,
                         Old old_value, float2 sum) const {
    if constexpr (kFromPages) {
      const int column = tile.out_column + Column(j);
      if ((tile.extra & 1) && epilogue.valid[half] && column < buffers.width) {
        const float2 plane = *reinterpret_cast<const float2*>(
            buffers.planes + static_cast<int64_t>(tile.out_row + tile_row) * buffers.width + column);
        sum.x += plane.x * epilogue.rescale[half];
        sum.y += plane.y * epilogue.rescale[half];
      }
    }
    float2 old;
    if constexpr (kOldIsHalf) {
      old = __half22float2(old_value);
    } else {
      old = old_value;
    }
    const float factor = epilogue.factor[half];
    if constexpr (kProduct == ProductKind::kPast) return sum;
    if constexpr (kProduct == ProductKind::kRightOut) return epilogue.is_new[half] ? sum : old;
    if constexpr (kProduct == ProductKind::kInverseLeft) {
      return make_float2(factor * (old.x + sum.x), factor * (old.y + sum.y));
    }
    if constexpr (kProduct == ProductKind::kInverse || kProduct == ProductKind::kLeaf) {
      return make_float2(old.x + sum.x, old.y + sum.y);
    }
    return make_float2(old.x + factor * sum.x, old.y + factor * sum.y);
  }

  // Returns how many values of s fp16 does not hold.
  __device__ int StoreFloats(const Tile& tile, const Epilogue& epilogue, int half, int tile_row, int j,
                             float2 value) const {
    const int column = tile.out_column + Column(j);
    if (column >= buffers.width) return 0;
    if constexpr (kProduct == ProductKind::kPast || kProduct == ProductKind::kRight ||
                  kProduct == ProductKind::kRightOut || kProduct == ProductKind::kUpdate) {
      float* to = kProduct == ProductKind::kPast ? buffers.planes : buffers.r;
      *reinterpret_cast<float2*>(to + static_cast<int64_t>(tile.out_row + tile_row) * buffers.width +
                                 column) = value;
    }
    if constexpr (kProduct == ProductKind::kLeaf) {
      const SolvedRow& solved = epilogue.solved[half];
      if (solved.page == nullptr || column >= buffers.D) return 0;
      float2 gate;
      if constexpr (kPreload) {
        gate = epilogue.gate[half][j];
      } else {
        gate = LoadGate(tile, solved, j);
      }
      return StoreSolved(solved, column, value, gate);
    }
    return 0;
  }

  // Columns n to n + 7 of the tile.
  __device__ void StoreHalves(const Tile& tile, const SolvedRow& solved, int tile_row, int n,
                              uint4 values) const {
    const int64_t out_row = tile.out_row + tile_row;
    const int column = tile.out_column + n;
    if constexpr (kProduct == ProductKind::kInverseLeft) {
      *reinterpret_cast<uint4*>(buffers.product + out_row * (kMaxLeaf / 2) + column) = values;
    } else if constexpr (kProduct == ProductKind::kInverse) {
      *reinterpret_cast<uint4*>(buffers.inverse + out_row * kMaxLeaf + column) = values;
    } else if (column < buffers.width) {
      __half* to = kProduct == ProductKind::kLeaf ? buffers.s_half : buffers.r_half;
      *reinterpret_cast<uint4*>(to + out_row * buffers.width + column) = values;
      if constexpr (kProduct == ProductKind::kLeaf) {
        if (solved.page != nullptr && column < buffers.D)
          *reinterpret_cast<uint4*>(solved.page + column) = values;
      }
    }
  }
};

// One (product, tile width) a file: they compile for long.
template <ProductKind kProduct, int kTileColumns>
cudaError_t LaunchProductTiles(const PrefillBuffers& buffers, const ProductTile* tiles, int count,
                               const SolveOperands& operands, cudaStream_t stream) {
  ProductOp<kProduct, kTileColumns> op{};
  constexpr bool kInverted = kProduct == ProductKind::kInverse || kProduct == ProductKind::kLeaf;
  const int64_t rows = buffers.padded_rows, width = buffers.width;
  cudaError_t error = kInverted
                          ? MakeMatrixMap(&op.a, buffers.inverse, rows, kMaxLeaf, kMaxLeaf * 2, kTileRows)
                          : MakeMatrixMap(&op.a, buffers.panel, rows, buffers.panel_columns,
                                          int64_t{2} * buffers.panel_columns, kTileRows);
  if (error != cudaSuccess) return error;
  switch (kProduct) {
    case ProductKind::kPast:
    case ProductKind::kRight:
    case ProductKind::kRightOut:
      error = MakePageMap(&op.b, buffers.s_plane, buffers.page_count, buffers.D, buffers.page_bytes);
      break;
    case ProductKind::kInverseLeft:
      error = MakeMatrixMap(&op.b, buffers.inverse, rows, kMaxLeaf, kMaxLeaf * 2, kStepDepth);
      break;
    case ProductKind::kInverse:
      error = MakeMatrixMap(&op.b, buffers.product, rows, kMaxLeaf / 2, kMaxLeaf, kStepDepth);
      break;
    case ProductKind::kUpdate:
      error = MakeMatrixMap(&op.b, buffers.s_half, rows, width, width * 2, kStepDepth);
      break;
    case ProductKind::kLeaf:
      error = MakeMatrixMap(&op.b, buffers.r_half, rows, width, width * 2, kStepDepth);
      break;
  }
  if (kProduct == ProductKind::kRightOut && error == cudaSuccess) {
    error = MakeMatrixMap(&op.o, operands.o, operands.rows, buffers.D, int64_t{2} * buffers.D, kTileRows);
    if (error != cudaSuccess) return error;
    error = MakeMatrixMap(&op.out_weight, operands.out_weight, buffers.D, buffers.D, int64_t{2} * buffers.D,
                          kTileColumns);
  }
  if (error != cudaSuccess) return error;
  op.tiles = tiles;
  op.count = count;
  op.buffers = buffers;
  op.operands = operands;
  return LaunchTiles(op, buffers.multiprocessors, stream);
}

}  // namespace sessa::cuda
