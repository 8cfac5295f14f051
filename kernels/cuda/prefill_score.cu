// SCORE and NORM: the attention weights of the feedback solve, unnormalised, and what normalises them.
//
//   S[i,j] = qb_i . kb_j D^-1/2 log2(e), j < i;   P~[i,j] = fp16(2^(S[i,j] - m_i));   l_i = sum_j P~[i,j]
//
// m is a row's maximum over a tile of 256 columns, raised to the next multiple of 12 and lowered by 14: P~'s largest
// entry of the tile lies in (4, 2^14], so that tiles hardly ever differ in m, bringing one to another's m is a shift
// by a power of two, and entries 2^-26 below the largest are still numbers. l sums the rounded weights, so that
// weights and normaliser agree to float32: a weight of one stays one.
#include <cmath>

#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_tiles.cuh"

namespace sessa::cuda {

inline constexpr float kMaximumStep = 12, kMaximumDrop = 14;

struct ScoreOp {
  static constexpr int kColumns = kScoreColumns;
  static constexpr int kTransposeB = 0;
  using Element = __nv_bfloat16;
  using Tile = ScoreTile;
  struct Source {
    int row;
    int pages[4];
  };

  CUtensorMap qb, kb;
  const ScoreTile* tiles;
  int count;
  const DeviceSegment* segments;
  const int32_t* page_table;
  int steps;
  int panel_columns;
  __half* panel;
  float2* stats;
  float scale;  // log2(e) D^-1/2

  __device__ int Steps(const Tile&) const { return steps; }

  __device__ Source Prepare(const Tile& tile) const {
    const DeviceSegment& segment = segments[tile.segment];
    Source source;
    source.row = segment.first_row - segment.lead + tile.row;
    const int last = (segment.start + segment.rows - 1) / kPageTokens;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int page = (tile.origin + tile.column) / kPageTokens + i;
      source.pages[i] = page_table[segment.page_begin + (page < last ? page : last)];
    }
    return source;
  }

  __device__ void Load(const Tile&, const Source& source, int step, uint8_t* a, uint8_t* b,
                       uint64_t* barrier) const {
    CopyBox(a, &qb, barrier, step * kStepDepth, source.row);
#pragma unroll
    for (int i = 0; i < 4; i++) CopyBox(b + i * kBoxBytes, &kb, barrier, step * kStepDepth, 0, source.pages[i]);
  }

  // Of the thread's rows, row and row + 8 of the tile.
  struct Epilogue {
    int limit[2];    // so many columns of the tile are past
    int out_row[2];  // workspace row, or -1
  };

  __device__ Epilogue Begin(const Tile& tile, int row) const {
    const DeviceSegment& segment = segments[tile.segment];
    Epilogue epilogue;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int i = tile.row + row + 8 * half;
      const bool valid = i >= segment.lead && i < segment.lead + segment.rows;
      epilogue.limit[half] = valid ? min(segment.block_start + i, tile.end) - tile.origin - tile.column : 0;
      epilogue.out_row[half] = i < segment.padded ? segment.base + i : -1;
    }
    return epilogue;
  }

  // Weights, maximum and sum of the thread's rows.
  __device__ void Finish(const Tile& tile, const Epilogue& epilogue, float (&acc)[kColumns / 2], int) const {
    const int lane = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int limit = epilogue.limit[half];
      if (limit < kColumns) {
#pragma unroll
        for (int j = 0; j < kColumns / 8; j++) {
          const int column = 8 * j + 2 * lane;
          if (column >= limit) acc[4 * j + 2 * half] = -INFINITY;
          if (column + 1 >= limit) acc[4 * j + 2 * half + 1] = -INFINITY;
        }
      }
      float largest = -INFINITY;
#pragma unroll
      for (int j = 0; j < kColumns / 8; j++) {
        largest = fmaxf(largest, fmaxf(acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]));
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      const float m =
          largest == -INFINITY ? 0 : kMaximumStep * ceilf(largest * scale / kMaximumStep) - kMaximumDrop;
      float sum = 0;
      const int64_t out_row = epilogue.out_row[half];
      const bool stored = out_row >= 0;
      __half* to = panel + out_row * panel_columns + tile.column + 8 * lane;
#pragma unroll
      for (int j = 0; j < kColumns / 8; j += 4) {
        uint32_t packed[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
          const float a = Exp2(acc[4 * (j + k) + 2 * half] * scale - m);
          const float b = Exp2(acc[4 * (j + k) + 2 * half + 1] * scale - m);
          const __half2 pair = __floats2half2_rn(a, b);
          const float2 rounded = __half22float2(pair);
          sum += rounded.x + rounded.y;
          packed[k] = *reinterpret_cast<const uint32_t*>(&pair);
        }
        QuadTranspose(packed);
        if (stored) *reinterpret_cast<uint4*>(to + 8 * j) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
      }
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (stored && lane == 0) {
        stats[out_row * (panel_columns / kColumns) + tile.column / kColumns] = make_float2(m, sum);
      }
    }
  }
};

namespace {

// 2^x for integers x <= 0.
__device__ float PowerOfTwo(float x) { return x < -126 ? 0 : __int_as_float((127 + static_cast<int>(x)) << 23); }

__device__ float WarpMax(float x) {
  for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
  return x;
}

__device__ float WarpSum(float x) {
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
  return x;
}

struct NormParams {
  PrefillBuffers buffers;
  const SolveRows* rows;
  int32_t panel_index;
  const float* gamma;
};

// Multiplies 256 weights by a power of two; a lane has 8 of them.
__device__ void Rescale(__half* weights, float factor) {
  uint4* at = reinterpret_cast<uint4*>(weights) + threadIdx.x % 32;
  uint4 value = *at;
  __half2* pairs = reinterpret_cast<__half2*>(&value);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 pair = __half22float2(pairs[i]);
    pairs[i] = __floats2half2_rn(pair.x * factor, pair.y * factor);
  }
  *at = value;
}

// A warp a row; 8 rows a block, 16 blocks an entry of the row list.
__global__ void __launch_bounds__(256) NormKernel(NormParams p) {
  const PrefillBuffers& buffers = p.buffers;
  AllowNext();
  WaitForPrevious();
  const SolveRows at = p.rows[blockIdx.x / 16];
  const DeviceSegment& segment = buffers.segments[at.segment];
  const int lane = threadIdx.x % 32;
  const int i = at.row + blockIdx.x % 16 * 8 + threadIdx.x / 32;
  if (i >= segment.padded) return;
  const int row = segment.base + i;
  const int origin = max(0, segment.columns - (p.panel_index + 1) * buffers.panel_columns);
  const int end = segment.columns - p.panel_index * buffers.panel_columns;
  if (end <= 0) return;
  const int row_end = segment.block_start + min(at.row + kTileRows, segment.padded);
  const int tiles = (max(0, min(end, row_end) - origin) + kScoreColumns - 1) / kScoreColumns;
  const float2* stats = buffers.stats + static_cast<int64_t>(row) * (buffers.panel_columns / kScoreColumns);
  const bool first = origin == 0;

  const float old_sum = first ? 0 : buffers.row_sum[row];
  const float old_max = first ? -INFINITY : buffers.row_max[row];
  float maximum = old_sum > 0 ? old_max : -INFINITY;
  for (int t = lane; t < tiles; t += 32) {
    if (stats[t].y > 0) maximum = fmaxf(maximum, stats[t].x);
  }
  maximum = WarpMax(maximum);
  float sum = 0;
  for (int t = lane; t < tiles; t += 32) {
    if (stats[t].y > 0) sum += stats[t].y * PowerOfTwo(stats[t].x - maximum);
  }
  const float rescale = old_sum > 0 ? PowerOfTwo(old_max - maximum) : 0;
  sum = WarpSum(sum) + old_sum * rescale;
  __half* weights = buffers.panel + static_cast<int64_t>(row) * buffers.panel_columns;
  for (int t = 0; t < tiles; t++) {
    const float2 stat = stats[t];
    if (stat.y > 0 && stat.x != maximum) Rescale(weights + t * kScoreColumns, PowerOfTwo(stat.x - maximum));
  }
  if (lane != 0) return;
  buffers.row_max[row] = maximum;
  buffers.row_sum[row] = sum;
  buffers.rescale[row] = rescale;
  if (p.panel_index == 0) {
    const bool valid = i >= segment.lead && i < segment.lead + segment.rows;
    buffers.sigma[row] = valid && sum > 0 ? p.gamma[segment.first_row + i - segment.lead] / sum : 0;
  }
}

}  // namespace

cudaError_t LaunchScore(const PrefillBuffers& buffers, const ScoreTile* tiles, int count, const void* qb,
                        int32_t qb_rows, cudaStream_t stream) {
  ScoreOp op{};
  cudaError_t error = MakeMatrixMap(&op.qb, qb, qb_rows, buffers.D, int64_t{2} * buffers.D, kTileRows);
  if (error != cudaSuccess) return error;
  error = MakePageMap(&op.kb, buffers.kb_plane, buffers.page_count, buffers.D, buffers.page_bytes);
  if (error != cudaSuccess) return error;
  op.tiles = tiles;
  op.count = count;
  op.segments = buffers.segments;
  op.page_table = buffers.page_table;
  op.steps = (buffers.D + kStepDepth - 1) / kStepDepth;
  op.panel_columns = buffers.panel_columns;
  op.panel = buffers.panel;
  op.stats = buffers.stats;
  op.scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(buffers.D)));
  return LaunchTiles(op, buffers.multiprocessors, stream);
}

cudaError_t LaunchWeightNorm(const PrefillBuffers& buffers, const SolveRows* rows, int count, int32_t panel_index,
                       const float* gamma, cudaStream_t stream) {
  return LaunchOverlapped(NormKernel, count * 16, 256, 0, stream, NormParams{buffers, rows, panel_index, gamma});
}

}  // namespace sessa::cuda
