// The products of the feedback solve, all of one form: fp16 weights or inverses (rows, k) times fp16 rows (k, n).
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
  static constexpr bool kFromPages = kProduct == ProductKind::kPast;
  using Element = __half;
  using Tile = ProductTile;
  struct Source {
    const int32_t* pages;
  };

  CUtensorMap a, b;
  const ProductTile* tiles;
  int count;
  PrefillBuffers buffers;
  SolveOutputs outputs;

  __device__ int Steps(const Tile& tile) const { return tile.steps; }

  __device__ Source Prepare(const Tile& tile) const {
    if (!kFromPages) return {nullptr};
    return {buffers.page_table + buffers.segments[tile.segment].page_begin + tile.b_row / kPageTokens};
  }

  __device__ void Load(const Tile& tile, const Source& source, int step, uint8_t* to_a, uint8_t* to_b,
                       uint64_t* barrier) const {
    CopyBox(to_a, &a, barrier, tile.a_column + step * kStepDepth, tile.a_row);
    const int page = kFromPages ? source.pages[step] : 0;
#pragma unroll
    for (int n = 0; n < kColumns; n += 64) {
      uint8_t* to = to_b + n / 64 * kBoxBytes;
      if constexpr (kFromPages) {
        CopyBox(to, &b, barrier, tile.b_column + n, 0, page);
      } else {
        CopyBox(to, &b, barrier, tile.b_column + n, tile.b_row + step * kStepDepth);
      }
    }
  }

  // Whether the old values that the sums join are loaded while the tile is multiplied (or, for want of registers,
  // afterwards).
  static constexpr bool kPreload = kProduct != ProductKind::kPast && kColumns <= 128;
  static constexpr bool kOldIsHalf = kProduct == ProductKind::kInverseLeft || kProduct == ProductKind::kInverse;
  using Old = std::conditional_t<kOldIsHalf, __half2, float2>;

  // Of the thread's rows, row and row + 8 of the tile.
  struct Epilogue {
    float factor[2];   // sigma, or what the sums so far are brought to the new maximum with
    SolvedRow solved[2];
    Old old[2][kPreload ? kColumns / 8 : 1];
  };

  __device__ Epilogue Begin(const Tile& tile, int row) const {
    Epilogue epilogue;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int tile_row = row + 8 * half;
      if (tile_row >= tile.valid_rows) continue;
      const int64_t a_row = tile.a_row + tile_row;
      epilogue.factor[half] = 0;
      if constexpr (kProduct == ProductKind::kInverseLeft || kProduct == ProductKind::kUpdate) {
        epilogue.factor[half] = buffers.sigma[a_row];
      }
      if constexpr (kProduct == ProductKind::kPast) {
        if (tile.extra) epilogue.factor[half] = buffers.rescale[a_row];
      }
      if constexpr (kProduct == ProductKind::kLeaf) {
        epilogue.solved[half] =
            FindSolvedRow(buffers, buffers.segments[tile.segment], tile.extra + tile_row, outputs);
      }
      if constexpr (kPreload) {
#pragma unroll
        for (int j = 0; j < kColumns / 8; j++) epilogue.old[half][j] = LoadOld(tile, tile_row, Column(j));
      }
    }
    return epilogue;
  }

  // Of the tile: the first of the thread's two columns of accumulators 4 j and on.
  static __device__ int Column(int j) { return 8 * j + 2 * (threadIdx.x % 4); }

  // What the sums join: r, T or P~, at column n of the tile.
  __device__ Old LoadOld(const Tile& tile, int tile_row, int n) const {
    const int64_t out_row = tile.out_row + tile_row;
    if constexpr (kProduct == ProductKind::kInverseLeft) {
      return *reinterpret_cast<const __half2*>(buffers.panel + out_row * buffers.panel_columns + tile.extra + n);
    } else if constexpr (kProduct == ProductKind::kInverse) {
      return *reinterpret_cast<const __half2*>(buffers.product + out_row * (kMaxLeaf / 2) + tile.extra + n);
    } else {
      const int64_t column = tile.out_column + n;
      if (column >= buffers.width) return make_float2(0, 0);
      const float* from = kProduct == ProductKind::kPast ? buffers.planes : buffers.r;
      return *reinterpret_cast<const float2*>(from + out_row * buffers.width + column);
    }
  }

  __device__ void Finish(const Tile& tile, const Epilogue& epilogue, float (&acc)[kColumns / 2], int row) const {
    int saturated = 0;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int tile_row = row + 8 * half;
      if (tile_row >= tile.valid_rows) continue;
      constexpr int kBatch = 8;  // old values loaded together, unless they are here
#pragma unroll
      for (int j0 = 0; j0 < kColumns / 8; j0 += kBatch) {
        Old old[kBatch];
#pragma unroll
        for (int j = 0; j < kBatch; j++) {
          if constexpr (kPreload) {
            old[j] = epilogue.old[half][j0 + j];
          } else if (kProduct != ProductKind::kPast || tile.extra) {
            old[j] = LoadOld(tile, tile_row, Column(j0 + j));
          } else {
            old[j] = Old();
          }
        }
#pragma unroll
        for (int j = 0; j < kBatch; j++) {
          const int at = 4 * (j0 + j) + 2 * half;
          saturated += Store(tile, tile_row, Column(j0 + j), epilogue.factor[half], epilogue.solved[half], old[j],
                             make_float2(acc[at], acc[at + 1]));
        }
      }
    }
    if constexpr (kProduct == ProductKind::kLeaf) CountSaturations(outputs, saturated);
  }

  // Columns n, n + 1 of the tile; returns how many values of s fp16 does not hold.
  __device__ int Store(const Tile& tile, int tile_row, int n, float factor, const SolvedRow& solved, Old old_value,
                       float2 value) const {
    const int64_t out_row = tile.out_row + tile_row;
    const int column = tile.out_column + n;
    float2 old;
    if constexpr (kOldIsHalf) {
      old = __half22float2(old_value);
    } else {
      old = old_value;
    }
    if constexpr (kProduct == ProductKind::kInverseLeft) {
      *reinterpret_cast<__half2*>(buffers.product + out_row * (kMaxLeaf / 2) + column) =
          __floats2half2_rn(factor * (old.x + value.x), factor * (old.y + value.y));
      return 0;
    }
    if constexpr (kProduct == ProductKind::kInverse) {
      *reinterpret_cast<__half2*>(buffers.inverse + out_row * kMaxLeaf + column) =
          __floats2half2_rn(old.x + value.x, old.y + value.y);
      return 0;
    }
    if (column >= buffers.width) return 0;
    const int64_t at = out_row * buffers.width + column;
    if constexpr (kProduct == ProductKind::kPast) {
      *reinterpret_cast<float2*>(buffers.planes + at) =
          make_float2(old.x * factor + value.x, old.y * factor + value.y);
    } else if constexpr (kProduct == ProductKind::kUpdate) {
      value = make_float2(old.x + factor * value.x, old.y + factor * value.y);
      *reinterpret_cast<float2*>(buffers.r + at) = value;
      *reinterpret_cast<__half2*>(buffers.r_half + at) = ClampToHalf(value);
    } else if constexpr (kProduct == ProductKind::kLeaf) {
      value = make_float2(old.x + value.x, old.y + value.y);
      const __half2 half = ClampToHalf(value);
      *reinterpret_cast<__half2*>(buffers.s_half + at) = half;
      if (solved.s != nullptr && column < buffers.D) return StoreSolved(solved, column, value, half);
    }
    return 0;
  }
};

// One (product, tile width) a file: they compile for long.
template <ProductKind kProduct, int kTileColumns>
cudaError_t LaunchProductTiles(const PrefillBuffers& buffers, const ProductTile* tiles, int count,
                               const SolveOutputs& outputs, cudaStream_t stream) {
  ProductOp<kProduct, kTileColumns> op{};
  constexpr bool kInverted = kProduct == ProductKind::kInverse || kProduct == ProductKind::kLeaf;
  const int64_t rows = buffers.padded_rows, width = buffers.width;
  cudaError_t error =
      kInverted ? MakeMatrixMap(&op.a, buffers.inverse, rows, kMaxLeaf, kMaxLeaf * 2, kTileRows)
                : MakeMatrixMap(&op.a, buffers.panel, rows, buffers.panel_columns, int64_t{2} * buffers.panel_columns,
                                kTileRows);
  if (error != cudaSuccess) return error;
  switch (kProduct) {
    case ProductKind::kPast:
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
  if (error != cudaSuccess) return error;
  op.tiles = tiles;
  op.count = count;
  op.buffers = buffers;
  op.outputs = outputs;
  return LaunchTiles(op, buffers.multiprocessors, stream);
}

}  // namespace sessa::cuda
