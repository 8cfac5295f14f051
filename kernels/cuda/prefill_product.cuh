// The products of the feedback solve, all of one form: fp16 weights or inverses (rows, k) times fp16 rows (k, n).
#pragma once

#include "kernels/cuda/prefill_append.cuh"
#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_tiles.cuh"

namespace sessa::cuda {

template <Product kProduct, int kTileColumns>
struct ProductOp {
  static constexpr int kColumns = kTileColumns;
  static constexpr int kTransposeB = 1;
  static constexpr bool kFromPages = kProduct == Product::kPast;
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

  __device__ void Finish(const Tile& tile, float (&acc)[kColumns / 2], int row) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (row + 8 * half >= tile.valid_rows) continue;
      const int64_t out_row = tile.out_row + row + 8 * half;
      const int64_t a_row = tile.a_row + row + 8 * half;  // workspace row
      const float factor = Factor(tile, a_row);
#pragma unroll
      for (int j = 0; j < kColumns / 8; j++) {
        const int n = 8 * j + 2 * (threadIdx.x % 4);
        Store(tile, out_row, a_row, row + 8 * half, n, factor,
              make_float2(acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]));
      }
    }
  }

  // The row's factor: sigma, or what the sums so far are brought to the new maximum with.
  __device__ float Factor(const Tile& tile, int64_t a_row) const {
    if constexpr (kProduct == Product::kPast) return tile.extra ? buffers.rescale[a_row] : 0;
    if constexpr (kProduct == Product::kInverseLeft || kProduct == Product::kUpdate) return buffers.sigma[a_row];
    return 0;
  }

  // Two neighbouring columns n, n + 1 of the tile.
  __device__ void Store(const Tile& tile, int64_t out_row, int64_t a_row, int tile_row, int n, float factor,
                        float2 value) const {
    if constexpr (kProduct == Product::kPast) {
      if (tile.out_column + n >= buffers.width) return;
      float2* to = reinterpret_cast<float2*>(buffers.planes + out_row * buffers.width + tile.out_column + n);
      if (tile.extra) value = make_float2(to->x * factor + value.x, to->y * factor + value.y);
      *to = value;
    } else if constexpr (kProduct == Product::kInverseLeft) {
      const float2 p = __half22float2(*reinterpret_cast<const __half2*>(
          buffers.panel + a_row * buffers.panel_columns + tile.extra + n));
      *reinterpret_cast<__half2*>(buffers.product + out_row * (kMaxLeaf / 2) + tile.out_column + n) =
          __floats2half2_rn(factor * (p.x + value.x), factor * (p.y + value.y));
    } else if constexpr (kProduct == Product::kInverse) {
      const float2 t = __half22float2(
          *reinterpret_cast<const __half2*>(buffers.product + a_row * (kMaxLeaf / 2) + tile.extra + n));
      *reinterpret_cast<__half2*>(buffers.inverse + out_row * kMaxLeaf + tile.out_column + n) =
          __floats2half2_rn(t.x + value.x, t.y + value.y);
    } else {
      StoreSolved(tile, out_row, tile_row, n, factor, value);
    }
  }

  __device__ void StoreSolved(const Tile& tile, int64_t out_row, int tile_row, int n, float factor,
                              float2 value) const {
    const int column = tile.out_column + n;
    if (column >= buffers.width) return;
    const int64_t at = out_row * buffers.width + column;
    float2* r = reinterpret_cast<float2*>(buffers.r + at);
    if constexpr (kProduct == Product::kUpdate) {
      value = make_float2(r->x + factor * value.x, r->y + factor * value.y);
      *r = value;
      *reinterpret_cast<__half2*>(buffers.r_half + at) = ClampToHalf(value);
    } else {
      value = make_float2(r->x + value.x, r->y + value.y);
      const __half2 half = ClampToHalf(value);
      *reinterpret_cast<__half2*>(buffers.s_half + at) = half;
      AppendSolved(buffers, buffers.segments[tile.segment], tile.extra + tile_row, column, value, half, outputs);
    }
  }
};

// One (product, tile width) a file: they compile for long.
template <Product kProduct, int kTileColumns>
cudaError_t LaunchProductTiles(const PrefillBuffers& buffers, const ProductTile* tiles, int count,
                               const SolveOutputs& outputs, cudaStream_t stream) {
  ProductOp<kProduct, kTileColumns> op{};
  constexpr bool kInverted = kProduct == Product::kInverse || kProduct == Product::kLeaf;
  const int64_t rows = buffers.padded_rows, width = buffers.width;
  cudaError_t error =
      kInverted ? MakeMatrixMap(&op.a, buffers.inverse, rows, kMaxLeaf, kMaxLeaf * 2, kTileRows)
                : MakeMatrixMap(&op.a, buffers.panel, rows, buffers.panel_columns, int64_t{2} * buffers.panel_columns,
                                kTileRows);
  if (error != cudaSuccess) return error;
  switch (kProduct) {
    case Product::kPast:
      error = MakePageMap(&op.b, buffers.s_plane, buffers.page_count, buffers.D, buffers.page_bytes);
      break;
    case Product::kInverseLeft:
      error = MakeMatrixMap(&op.b, buffers.inverse, rows, kMaxLeaf, kMaxLeaf * 2, kStepDepth);
      break;
    case Product::kInverse:
      error = MakeMatrixMap(&op.b, buffers.product, rows, kMaxLeaf / 2, kMaxLeaf, kStepDepth);
      break;
    case Product::kUpdate:
      error = MakeMatrixMap(&op.b, buffers.s_half, rows, width, width * 2, kStepDepth);
      break;
    case Product::kLeaf:
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
