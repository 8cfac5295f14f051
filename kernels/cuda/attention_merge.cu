// Merges the items of each row's attentions (decode_attention.cu) in an order fixed by the row's length
// alone:
//   M = max m_i;  result = sum_i acc_i 2^(m_i - M) / sum_i l_i 2^(m_i - M)
// over units i (blocks, or items of several), in runs of kRunUnits: each run ascending, then the runs
// ascending.
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"

namespace sessa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kForwardColumns = 256;
constexpr int kEach = 4;       // neighbouring columns that a thread merges
constexpr int kRunUnits = 16;  // one thread adds them, one after the other
constexpr int kMaxRuns = kMaxItems / kRunUnits;
constexpr int kTile = kThreads * kEach;               // columns of a block of threads, of a row of one run
constexpr int kMinTile = kTile / kMaxRuns;            // of a row of kMaxRuns
constexpr int kMaxSums = kMaxItems * (kMinTile / 8);  // pairs of the heads in a tile, of all units
constexpr int kFineColumns = kMinTile / kEach;

// The accumulators of one row and kind: column c belongs to head c / head_columns.
struct Partials {
  const float* items;  // of the row, ascending
  int64_t stride;      // from an item to the next
  int32_t count;
  int32_t columns;  // of an accumulator; maxima and sums of its heads follow it
  int32_t head_columns;
  bool fine;  // items are leaves; a unit is up to kLeavesPerBlock of them
};

__device__ __forceinline__ float2 MaxAndSum(const Partials& p, int item, int head) {
  return *reinterpret_cast<const float2*>(p.items + item * p.stride + p.columns + 2 * head);
}

// What a warp would have made of the leaves of a block (MergeLeaf in decode_attention.cu, operation by
// operation).
__device__ float2 MergeLeafSums(const Partials& p, int first, int end, int head) {
  float2 run = MaxAndSum(p, first, head);
  for (int item = first + 1; item < end; ++item) {
    const float2 leaf = MaxAndSum(p, item, head);
    const float max = fmaxf(run.x, leaf.x);
    run.y = __fmaf_rn(leaf.y, Exp2(leaf.x - max), __fmul_rn(run.y, Exp2(run.x - max)));
    run.x = max;
  }
  return run;
}

__device__ __forceinline__ float4 MergeLeafColumns(const Partials& p, int first, int end, int head,
                                                   int column) {
  float4 acc = *reinterpret_cast<const float4*>(p.items + first * p.stride + column);
  float run = MaxAndSum(p, first, head).x;
  for (int item = first + 1; item < end; ++item) {
    const float4 leaf = *reinterpret_cast<const float4*>(p.items + item * p.stride + column);
    const float leaf_max = MaxAndSum(p, item, head).x;
    const float max = fmaxf(run, leaf_max);
    const float old_part = Exp2(run - max), new_part = Exp2(leaf_max - max);
    acc.x = __fmaf_rn(leaf.x, new_part, __fmul_rn(acc.x, old_part));
    acc.y = __fmaf_rn(leaf.y, new_part, __fmul_rn(acc.y, old_part));
    acc.z = __fmaf_rn(leaf.z, new_part, __fmul_rn(acc.z, old_part));
    acc.w = __fmaf_rn(leaf.w, new_part, __fmul_rn(acc.w, old_part));
    run = max;
  }
  return acc;
}

// Shared memory of a merge.
struct Scratch {
  float2 sums[kMaxSums];  // [unit][head of the tile]
  float4 parts[kMaxFineUnits]
              [kFineColumns];  // fine: units, merged of their leaves. Else [thread]: sums of runs
};

__device__ __forceinline__ void AddPart(float4& acc, const float4& part, float factor) {
  acc.x = __fmaf_rn(part.x, factor, acc.x);
  acc.y = __fmaf_rn(part.y, factor, acc.y);
  acc.z = __fmaf_rn(part.z, factor, acc.z);
  acc.w = __fmaf_rn(part.w, factor, acc.w);
}

// Runs of a row; a power of two, so that it divides the threads.
__device__ __forceinline__ int RunsOf(const Partials& p) {
  const int per_run = kRunUnits * (p.fine ? kLeavesPerBlock : 1);
  int runs = 1;
  while (runs * per_run < p.count) runs *= 2;
  return runs;
}
// Threads that share the columns of a tile.
__device__ __forceinline__ int ThreadsOf(const Partials& p) {
  return kThreads / (p.fine ? kMaxRuns : RunsOf(p));
}

// Tile `tile` of the result. True in threads that hold `out`, columns [column, + kEach).
__device__ bool Merge(const Partials& p, int tile, Scratch& scratch, float4& out, int& column) {
  const int per_unit = p.fine ? kLeavesPerBlock : 1;
  const int units = (p.count + per_unit - 1) / per_unit;
  const int runs = RunsOf(p), threads = ThreadsOf(p), split = kThreads / threads;
  const int group = threadIdx.x / threads, first_column = tile * threads * kEach;
  column = first_column + threadIdx.x % threads * kEach;
  const bool inside = column < p.columns;
  const int first_head = first_column / p.head_columns;
  const int heads = (min(first_column + threads * kEach, p.columns) - 1) / p.head_columns - first_head + 1;
  const int head = inside ? column / p.head_columns - first_head : 0;

  float4 values[kRunUnits];
  if (!p.fine) {  // all loads under way before anything is waited for
#pragma unroll
    for (int u = 0; u < kRunUnits; ++u) {
      const int unit = group * kRunUnits + u;
      values[u] = make_float4(0, 0, 0, 0);
      if (inside && unit < units)
        values[u] = *reinterpret_cast<const float4*>(p.items + unit * p.stride + column);
    }
  }
  for (int i = threadIdx.x; i < units * heads; i += kThreads) {
    const int item = i / heads * per_unit;
    scratch.sums[i] = MergeLeafSums(p, item, min(p.count, item + per_unit), first_head + i % heads);
  }
  if (p.fine && inside) {
    for (int unit = group; unit < units; unit += split) {
      const int item = unit * per_unit;
      scratch.parts[unit][threadIdx.x % threads] =
          MergeLeafColumns(p, item, min(p.count, item + per_unit), first_head + head, column);
    }
  }
  __syncthreads();
  const float2* sums = scratch.sums + head;
  float max = sums[0].x, sum = 0.0f;
  for (int unit = 1; unit < units; ++unit) max = fmaxf(max, sums[unit * heads].x);
  for (int unit = 0; unit < units; ++unit) {
    sum = __fmaf_rn(sums[unit * heads].y, Exp2(sums[unit * heads].x - max), sum);
  }
  float4 acc = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int u = 0; u < kRunUnits; ++u) {
    const int unit = group * kRunUnits + u;
    if (unit >= units) break;
    if (p.fine) values[u] = scratch.parts[unit][threadIdx.x % threads];
    AddPart(acc, values[u], Exp2(sums[unit * heads].x - max));
  }
  __syncthreads();
  float4* run_sums = &scratch.parts[0][0];
  run_sums[threadIdx.x] = acc;
  __syncthreads();
  if (group != 0 || !inside) return false;
  for (int run = 1; run < runs; ++run) AddPart(acc, run_sums[run * threads + threadIdx.x], 1.0f);
  out = make_float4(acc.x / sum, acc.y / sum, acc.z / sum, acc.w / sum);
  return true;
}

// Merges the tiles of a row's kind that are this block's, and hands out their columns.
template <typename Store>
__device__ __forceinline__ void MergeTiles(const Partials& part, int first_tile, int step, Scratch& scratch,
                                           const Store& store) {
  const int tile_columns = ThreadsOf(part) * kEach;
  for (int tile = first_tile; tile * tile_columns < part.columns; tile += step) {
    float4 value;
    int column;
    if (Merge(part, tile, scratch, value, column)) store(column, value);
    __syncthreads();  // the scratch is free again
  }
}

// blockIdx.x: row; blockIdx.y: `step` blocks of threads for the feedback, then as many for each forward
// chunk.
__global__ void __launch_bounds__(kThreads)
    AttentionMergeKernel(AttentionParams p, AttentionShape shape, int step) {
  __shared__ Scratch scratch;
  PdlWait();
  PdlTrigger();
  const int row = blockIdx.x, first_tile = blockIdx.y % step, kind = blockIdx.y / step, width = p.state.width;
  if (row == 0 && blockIdx.y == 0 && threadIdx.x == 0) *p.next_item = 0;  // for the next layer
  Partials part;
  part.fine = p.header->fine != 0;
  if (kind == 0) {
    const int first = p.feedback_first[row];
    part.count = p.feedback_first[row + 1] - first;
    part.items = p.partials + first * shape.partial_floats;
    part.stride = shape.partial_floats;
    part.columns = part.head_columns = width;
    float* ctx = p.ctx + static_cast<int64_t>(row) * width;
    if (part.count == 0) {  // no past: ctx = 0
      for (int c = first_tile * kThreads + threadIdx.x; c < width; c += step * kThreads) ctx[c] = 0.0f;
      return;
    }
    MergeTiles(part, first_tile, step, scratch,
               [&](int column, float4 value) { *reinterpret_cast<float4*>(ctx + column) = value; });
    return;
  }
  const int kv = p.state.kv, d = p.head_width, group_heads = shape.group_heads, chunk = kind - 1;
  const int first = p.forward_first[row];
  part.count = p.forward_first[row + 1] - first;
  if (part.count == 0) return;  // padding
  part.items = p.partials +
               (p.feedback_first[p.row_count] + static_cast<int64_t>(first) * shape.forward_chunks + chunk) *
                   shape.partial_floats;
  part.stride = shape.partial_floats * shape.forward_chunks;
  part.columns = group_heads * kForwardColumns;
  part.head_columns = d;
  const int group = p.heads / p.kv_heads, column_chunks = (kv + kForwardColumns - 1) / kForwardColumns;
  // Column c of the accumulator: query head `group_heads * pass + c / 256` of the key head of column c % 256.
  MergeTiles(part, first_tile, step, scratch, [&](int column, float4 value) {
    const int kv_column = chunk % column_chunks * kForwardColumns + column % kForwardColumns;
    const int in_group = chunk / column_chunks * group_heads + column / kForwardColumns;
    if (kv_column >= kv || in_group >= group) return;
    const int64_t at = static_cast<int64_t>(kv_column / d * group + in_group) * d + kv_column % d;
    if (p.o_bf16 != nullptr) {
      bf16* o = static_cast<bf16*>(p.o_bf16) + static_cast<int64_t>(row) * p.pitch + at;
      *reinterpret_cast<__nv_bfloat162*>(o) = __floats2bfloat162_rn(value.x, value.y);
      *reinterpret_cast<__nv_bfloat162*>(o + 2) = __floats2bfloat162_rn(value.z, value.w);
    } else {
      *reinterpret_cast<float4*>(p.o + static_cast<int64_t>(row) * width + at) = value;
    }
  });
}

}  // namespace

cudaError_t LaunchAttentionMerge(const AttentionParams& params, const AttentionShape& shape,
                                 const LaunchContext& context) {
  // Few rows: a block of threads for each of the smallest tiles; many: fewer blocks, each with several.
  constexpr int kEnoughBlocks = 512;
  const int kinds = 1 + shape.forward_chunks;
  const int step = max(1, min(kMaxRuns, kEnoughBlocks / (params.row_count * kinds)));
  return LaunchKernel(AttentionMergeKernel, dim3(params.row_count, kinds * step), dim3(kThreads), 0,
                      context.dependent, context.stream, params, shape, step);
}

}  // namespace sessa::cuda
