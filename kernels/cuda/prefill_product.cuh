// The products of the feedback solve, all of one form: fp16 weights or inverses (rows, k) times fp16 rows (k,
// n).
#pragma once

#include "kernels/cuda/prefill_product_epilogue.cuh"
#include "kernels/cuda/prefill_tiles.cuh"

namespace sessa::cuda {

template <ProductKind kProduct, int kTileColumns>
struct ProductOp : ProductEpilogue<kProduct, kTileColumns> {
  using Base = ProductEpilogue<kProduct, kTileColumns>;
  using Base::buffers;
  using Base::kFromPages;
  using Base::operands;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kTransposeB = 1;
  static constexpr bool kConstantB = false;
  static constexpr bool kThenLinear = kProduct == ProductKind::kRightOut;
  using Element = __half;
  using Tile = ProductTile;
  using Epilogue = typename Base::Epilogue;
  struct Source {
    const int32_t* pages;
    int o_row;  // of the tile's first row; may lie before the first (those rows belong to no one)
  };

  CUtensorMap a, b;
  CUtensorMap o, out_weight;  // kRightOut
  const ProductTile* tiles;
  int count;

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
