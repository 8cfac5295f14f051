// The linear layers as an operation of the tile product (prefill_tiles.cuh): rows of X times rows of W.
//
// An Output says what becomes of the sums. It has kParts: a tile's columns are that many equal stretches of
// the outputs, part_stride apart (W_in: as many columns of a as of g, so that no tile is all GELU); Epilogue
// and Begin, Finish as in prefill_tiles.cuh. Columns are handled in groups of 8, of which a thread has two;
// the widths that outputs are made of are multiples of 8.
#pragma once

#include <algorithm>

#include "kernels/cuda/prefill_linear.h"
#include "kernels/cuda/prefill_maps.h"
#include "kernels/cuda/prefill_tiles.cuh"

namespace sessa::cuda {

struct LinearTile {
  int row, column;  // the first of the tile
};

template <class Output, int kTileColumns>
struct LinearOp {
  static constexpr int kColumns = kTileColumns, kPartColumns = kColumns / Output::kParts;
  static constexpr int kTransposeB = 0;
  static constexpr bool kConstantB = true, kThenLinear = false;
  using Element = __nv_bfloat16;
  using Tile = LinearTile;
  struct Source {};
  using Epilogue = typename Output::template Epilogue<kColumns>;

  CUtensorMap x, weight;
  int count, row_tiles, steps;
  int rows, part_stride;
  Output output;

  __device__ void Prefetch() const {
    PrefetchMap(&x);
    PrefetchMap(&weight);
  }
  __device__ Tile TileAt(int index) const {
    return {index % row_tiles * kTileRows, index / row_tiles * kPartColumns};
  }
  __device__ Source Prepare(const Tile&) const { return {}; }
  __device__ int Steps(const Tile&) const { return steps; }
  __device__ void LoadA(const Tile& tile, const Source&, int step, uint8_t* to, uint64_t* barrier) const {
    CopyBox(to, &x, barrier, step * kStepDepth, tile.row);
  }
  __device__ void LoadB(const Tile& tile, const Source&, int step, uint8_t* to, uint64_t* barrier) const {
#pragma unroll
    for (int part = 0; part < Output::kParts; part++) {
      CopyBox(to + part * kPartColumns * 128, &weight, barrier, step * kStepDepth,
              tile.column + part * part_stride);
    }
  }
  __device__ Epilogue Begin(const Tile& tile, int row) const {
    return output.template Begin<kColumns>(tile, tile.row + row, rows);
  }
  __device__ void Finish(const Tile& tile, const Epilogue& epilogue, float (&acc)[kColumns / 2], int) const {
    output.template Finish<kColumns>(tile, epilogue, acc);
  }
};

template <class Output, int kColumns>
cudaError_t LaunchLinearTiles(const PrefillLinear& linear, const Output& output, cudaStream_t stream) {
  using Op = LinearOp<Output, kColumns>;
  Op op{};
  const int64_t pitch = int64_t{2} * linear.inputs;
  cudaError_t error = MakeMatrixMap(&op.x, linear.x, linear.rows, linear.inputs, pitch, kTileRows);
  if (error != cudaSuccess) return error;
  error = MakeMatrixMap(&op.weight, linear.weight, linear.outputs, linear.inputs, pitch, Op::kPartColumns);
  if (error != cudaSuccess) return error;
  op.part_stride = linear.outputs / Output::kParts;
  op.rows = linear.rows;
  op.row_tiles = (linear.rows + kTileRows - 1) / kTileRows;
  op.count = op.row_tiles * ((op.part_stride + Op::kPartColumns - 1) / Op::kPartColumns);
  op.steps = (linear.inputs + kStepDepth - 1) / kStepDepth;
  op.output = output;
  return LaunchTiles(op, linear.multiprocessors, stream);
}

// What rounds of tiles cost, in columns: each costs its columns and as much as kTileCost of them for its
// beginning and end.
inline int64_t LinearCost(const PrefillLinear& linear, int columns) {
  constexpr int kTileCost = 32;
  const int64_t row_tiles = (linear.rows + kTileRows - 1) / kTileRows;
  const int64_t tiles = row_tiles * ((linear.outputs + columns - 1) / columns);
  return (tiles + linear.multiprocessors - 1) / linear.multiprocessors * (columns + kTileCost);
}

// Tiles of 64, 128 or, up to kWidest, 256 columns: the cheapest.
template <class Output, int kWidest>
cudaError_t LaunchLinear(const PrefillLinear& linear, const Output& output, cudaStream_t stream) {
  if (linear.rows == 0) return cudaSuccess;
  const int64_t narrow = LinearCost(linear, 64), middle = LinearCost(linear, 128);
  if constexpr (kWidest == 256) {
    if (LinearCost(linear, 256) <= std::min(narrow, middle)) {
      return LaunchLinearTiles<Output, 256>(linear, output, stream);
    }
  }
  if (middle <= narrow) return LaunchLinearTiles<Output, 128>(linear, output, stream);
  return LaunchLinearTiles<Output, 64>(linear, output, stream);
}

// The first of the thread's two columns of a tile's group 0; group j is 8 j further.
__device__ __forceinline__ int PairColumn() { return 2 * (threadIdx.x % 4); }

__device__ __forceinline__ uint32_t PackBf16(float x, float y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// A tile's bias: each thread fetches a column's while the tile is multiplied, then all share them.
template <int kColumns>
struct TileBias {
  static_assert(kColumns <= 256, "a column a consumer thread");
  float mine;

  static __device__ float* Shared() {
    __shared__ float bias[kColumns];
    return bias;
  }
  static __device__ void Sync() { NamedBarrier(2, 256); }

  // bias, outputs: of the part that the thread's column belongs to; n: its output there.
  __device__ void Fetch(const float* bias, int n, int outputs) {
    mine = threadIdx.x < kColumns && n < outputs ? bias[n] : 0;
  }
  // Between these two, all of them can be read.
  __device__ void Publish() const {
    if (threadIdx.x < kColumns) Shared()[threadIdx.x] = mine;
    Sync();
  }
  __device__ void Release() const { Sync(); }
  static __device__ float2 Pair(int j) {
    return *reinterpret_cast<const float2*>(Shared() + 8 * j + PairColumn());
  }
};

}  // namespace sessa::cuda
