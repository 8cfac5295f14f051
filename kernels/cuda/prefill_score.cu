// SCORE and NORM: the attention weights of the feedback solve, unnormalised, and what normalises them.
//
//   S[i,j] = qb_i . kb_j D^-1/2 log2(e), j < i;   P~[i,j] = fp16(2^(S[i,j] - m_i));   l_i = sum_j P~[i,j]
//
// m is a row's maximum over a tile of 128 columns, raised to the next multiple of 12 and lowered by 14: P~'s
// largest entry of the tile lies in (4, 2^14], so that tiles hardly ever differ in m, bringing one to
// another's m is a shift by a power of two, and entries 2^-26 below the largest are still numbers. l sums the
// rounded weights, so that weights and normaliser agree to float32: a weight of one stays one.
#include <cmath>

#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_tiles.cuh"

namespace sessa::cuda {

inline constexpr float kMaximumStep = 12, kMaximumDrop = 14;

struct ScoreParams {
  CUtensorMap qb, kb;
  const ScoreTile* tiles;
  int count;
  const int32_t* page_table;
  int steps;  // of 64 columns of D
  int panel_columns;
  __half* panel;
  float2* stats;
  float scale;  // log2(e) D^-1/2
};

inline constexpr int kScoreStageBytes = (kTileRows + kScoreColumns) * 128;
inline constexpr int kScoreStages = 6;
inline constexpr int kScoreShared = kScoreStages * kScoreStageBytes + 1024;

#if SESSA_HOPPER_CODE

__device__ __forceinline__ void ProduceScores(const ScoreParams& p, uint8_t* stages, uint64_t* full,
                                              uint64_t* empty) {
  PrefetchMap(&p.qb);
  PrefetchMap(&p.kb);
  int stage = 0;
  uint32_t phase = 0;
  for (int index = blockIdx.x; index < p.count; index += gridDim.x) {
    const ScoreTile& tile = p.tiles[index];
    const int row = tile.qb_row;
    const int32_t pages[2] = {p.page_table[tile.pages[0]], p.page_table[tile.pages[1]]};
    if (index == blockIdx.x) WaitForPrevious();
    for (int step = 0; step < p.steps; step++) {
      BarrierWait(&empty[stage], phase ^ 1);
      BarrierExpectBytes(&full[stage], kScoreStageBytes);
      uint8_t* a = stages + stage * kScoreStageBytes;
      CopyBox(a, &p.qb, &full[stage], step * kStepDepth, row);
      for (int i = 0; i < 2; i++) {
        CopyBox(a + kTileRows * 128 + i * kBoxBytes, &p.kb, &full[stage], step * kStepDepth, 0, pages[i]);
      }
      if (++stage == kScoreStages) stage = 0, phase ^= 1;
    }
  }
}

// Weights, maximum and sum of two rows (the second 8 further down) of the thread; row: of the tile.
__device__ __forceinline__ void FinishScores(const ScoreParams& p, const ScoreTile& tile,
                                             float (&acc)[kScoreColumns / 2], int row) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = row + 8 * half;
    const int limit = r >= tile.new_begin && r < tile.new_end ? min(r + tile.diagonal, tile.end) : 0;
    if (limit < kScoreColumns) {
#pragma unroll
      for (int j = 0; j < kScoreColumns / 8; j++) {
        const int column = 8 * j + 2 * lane;
        if (column >= limit) acc[4 * j + 2 * half] = -INFINITY;
        if (column + 1 >= limit) acc[4 * j + 2 * half + 1] = -INFINITY;
      }
    }
    float largest = -INFINITY;
#pragma unroll
    for (int j = 0; j < kScoreColumns / 8; j++) {
      largest = fmaxf(largest, fmaxf(acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]));
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    const float m =
        largest == -INFINITY ? 0 : kMaximumStep * ceilf(largest * p.scale / kMaximumStep) - kMaximumDrop;
    float sum = 0;
    const bool stored = r < tile.valid_rows;
    const int64_t out_row = tile.out_row + r;
    __half* to = p.panel + out_row * p.panel_columns + tile.column + 8 * lane;
#pragma unroll
    for (int j = 0; j < kScoreColumns / 8; j += 4) {
      uint32_t packed[4];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float a = Exp2(acc[4 * (j + k) + 2 * half] * p.scale - m);
        const float b = Exp2(acc[4 * (j + k) + 2 * half + 1] * p.scale - m);
        const __half2 pair = __floats2half2_rn(a, b);
        const float2 rounded = __half22float2(pair);
        sum += rounded.x + rounded.y;
        packed[k] = *reinterpret_cast<const uint32_t*>(&pair);
      }
      QuadTranspose(packed);
      if (stored)
        *reinterpret_cast<uint4*>(to + 8 * j) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (stored && lane == 0) {
      p.stats[out_row * (p.panel_columns / kScoreColumns) + tile.column / kScoreColumns] =
          make_float2(m, sum);
    }
  }
}

// A consumer takes every other tile of the block, all 128 rows of it: while it finishes one, the other
// multiplies.
__device__ __forceinline__ void ConsumeScores(const ScoreParams& p, uint8_t* stages, uint64_t* full,
                                              uint64_t* empty) {
  const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
  const int row = threadIdx.x % 128 / 32 * 16 + lane / 4;
  int position = group * p.steps;  // of the step in the block's sequence of steps
  constexpr int kTurn = 1;         // named barrier of the first consumer's turn
  WaitForPrevious();
  if (group == 1) NamedBarrierArrive(kTurn, 256);
  for (int index = blockIdx.x + group * gridDim.x; index < p.count; index += 2 * gridDim.x) {
    const ScoreTile tile = p.tiles[index];
    NamedBarrier(kTurn + group, 256);                          // stages are waited for in their order
    float upper[kScoreColumns / 2], lower[kScoreColumns / 2];  // rows 0-63 and 64-127
    int previous = -1;
    for (int step = 0; step < p.steps; step++, position++) {
      const int stage = position % kScoreStages;
      BarrierWait(&full[stage], position / kScoreStages % 2);
      const uint32_t a = SharedAddress(stages + stage * kScoreStageBytes);
      Pin(upper);
      Pin(lower);
      WgmmaFence();
      const Operand queries = RowOperand(a), keys = RowOperand(a + kTileRows * 128);
#pragma unroll
      for (int k = 0; k < kStepDepth; k += 16) {
        const int accumulate = step > 0 || k > 0;
        WgmmaShared<0>(upper, queries.At(2 * k), keys.At(2 * k), accumulate, __nv_bfloat16());
        WgmmaShared<0>(lower, queries.At(kBoxBytes + 2 * k), keys.At(2 * k), accumulate, __nv_bfloat16());
      }
      WgmmaCommit();
      WgmmaWait<1>();
      if (previous >= 0 && lane == 0) BarrierArrive(&empty[previous]);
      previous = stage;
    }
    WgmmaWait<0>();
    Pin(upper);
    Pin(lower);
    if (lane == 0) BarrierArrive(&empty[previous]);
    NamedBarrierArrive(kTurn + 1 - group, 256);
    position += p.steps;  // those of the other consumer
    FinishScores(p, tile, upper, row);
    FinishScores(p, tile, lower, row + 64);
  }
  const int tiles = (p.count - blockIdx.x + gridDim.x - 1) / gridDim.x;
  if (tiles % 2 == group) NamedBarrier(kTurn + group, 256);  // the last turn given is taken
}

#endif  // SESSA_HOPPER_CODE

__global__ void __launch_bounds__(kTileThreads, 1) ScoreKernel(const __grid_constant__ ScoreParams p) {
#if SESSA_HOPPER_CODE
  extern __shared__ uint8_t shared[];
  __shared__ uint64_t full[kScoreStages], empty[kScoreStages];
  uint8_t* stages = shared + ((1024 - SharedAddress(shared) % 1024) % 1024);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kScoreStages; i++) {
      BarrierInit(&full[i], 1);
      BarrierInit(&empty[i], 4);  // the warps of the consumer that had it
    }
    BarrierInitFence();
  }
  __syncthreads();
  AllowNext();
  if (threadIdx.x >= 256) {
    ShrinkRegisters<40>();
    if (threadIdx.x == 256) {
      ProduceScores(p, stages, full, empty);
    } else {
      WaitForPrevious();
    }
  } else {
    GrowRegisters<232>();
    ConsumeScores(p, stages, full, empty);
  }
#else
  __trap();
#endif
}

namespace {

// 2^x for integers x <= 0.
__device__ float PowerOfTwo(float x) {
  return x < -126 ? 0 : __int_as_float((127 + static_cast<int>(x)) << 23);
}

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

// Multiplies 128 weights by a power of two; a lane has 4 of them.
__device__ void Rescale(__half* weights, float factor) {
  uint2* at = reinterpret_cast<uint2*>(weights) + threadIdx.x % 32;
  uint2 value = *at;
  __half2* pairs = reinterpret_cast<__half2*>(&value);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float2 pair = __half22float2(pairs[i]);
    pairs[i] = __floats2half2_rn(pair.x * factor, pair.y * factor);
  }
  *at = value;
}

// A warp a row; 8 rows a block, 16 blocks an entry of the row list.
__global__ void __launch_bounds__(256) NormKernel(NormParams p) {
  const PrefillBuffers& buffers = p.buffers;
  AllowNext();
  const SolveRows at = p.rows[blockIdx.x / 16];
  const DeviceSegment segment = buffers.segments[at.segment];
  WaitForPrevious();
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
  for (int first_tile = 0; first_tile < tiles; first_tile += 32) {
    const float2 stat = first_tile + lane < tiles ? stats[first_tile + lane] : make_float2(0, 0);
    const float factor = stat.y > 0 ? PowerOfTwo(stat.x - maximum) : 1;
    for (uint32_t others = __ballot_sync(0xffffffffu, factor != 1); others != 0; others &= others - 1) {
      const int t = __ffs(others) - 1;
      Rescale(weights + (first_tile + t) * kScoreColumns, __shfl_sync(0xffffffffu, factor, t));
    }
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
  ScoreParams p{};
  cudaError_t error = MakeMatrixMap(&p.qb, qb, qb_rows, buffers.D, int64_t{2} * buffers.D, kTileRows);
  if (error != cudaSuccess) return error;
  error = MakePageMap(&p.kb, buffers.kb_plane, buffers.page_count, buffers.D, buffers.page_bytes);
  if (error != cudaSuccess) return error;
  static const cudaError_t configured =
      cudaFuncSetAttribute(ScoreKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kScoreShared);
  if (configured != cudaSuccess) return configured;
  p.tiles = tiles;
  p.count = count;
  p.page_table = buffers.page_table;
  p.steps = (buffers.D + kStepDepth - 1) / kStepDepth;
  p.panel_columns = buffers.panel_columns;
  p.panel = buffers.panel;
  p.stats = buffers.stats;
  p.scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(buffers.D)));
  const int blocks = count < buffers.multiprocessors ? count : buffers.multiprocessors;
  return LaunchOverlapped(ScoreKernel, blocks, kTileThreads, kScoreShared, stream, p);
}

cudaError_t LaunchWeightNorm(const PrefillBuffers& buffers, const SolveRows* rows, int count,
                             int32_t panel_index, const float* gamma, cudaStream_t stream) {
  return LaunchOverlapped(NormKernel, count * 16, 256, 0, stream,
                          NormParams{buffers, rows, panel_index, gamma});
}

}  // namespace sessa::cuda
