// Merges the items of each row's attentions (decode_attention.cu) in an order fixed by the row's length alone:
//   M = max m_i;  result = sum_i acc_i 2^(m_i - M) / sum_i l_i 2^(m_i - M)
// over units i (blocks, or items of several): eight groups of threads take every eighth unit, ascending, and their
// sums are added in order.
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"

namespace sessa::cuda {
namespace {

constexpr int kColumns = 128;  // of an accumulator that a block of threads merges: four a thread
constexpr int kGroups = 8;
constexpr int kThreads = kGroups * 32;
constexpr int kMaxHeads = kColumns / 8;  // that share those columns

// The accumulators of one row and kind: column c belongs to head c / head_columns.
struct Partials {
  const float* items;  // of the row, ascending
  int64_t stride;      // from an item to the next
  int32_t count;
  int32_t columns;     // of an accumulator; maxima and sums of its heads follow it
  int32_t head_columns;
  bool fine;           // items are leaves; a unit is up to kLeavesPerBlock of them
};

__device__ __forceinline__ float2 MaxAndSum(const Partials& p, int item, int head) {
  return *reinterpret_cast<const float2*>(p.items + item * p.stride + p.columns + 2 * head);
}

// What a warp would have made of the leaves of a block (MergeLeaf in decode_attention.cu, operation by operation).
__device__ float2 MergeLeafSums(const Partials& p, int first, int end, int head) {
  float2 run = MaxAndSum(p, first, head);
  for (int item = first + 1; item < end; ++item) {
    const float2 leaf = MaxAndSum(p, item, head);
    const float max = fmaxf(run.x, leaf.x);
    run.y = __fmaf_rn(leaf.y, exp2f(leaf.x - max), __fmul_rn(run.y, exp2f(run.x - max)));
    run.x = max;
  }
  return run;
}

__device__ float4 MergeLeafColumns(const Partials& p, int first, int end, int head, int column) {
  float4 acc = *reinterpret_cast<const float4*>(p.items + first * p.stride + column);
  float run = MaxAndSum(p, first, head).x;
  for (int item = first + 1; item < end; ++item) {
    const float4 leaf = *reinterpret_cast<const float4*>(p.items + item * p.stride + column);
    const float leaf_max = MaxAndSum(p, item, head).x;
    const float max = fmaxf(run, leaf_max);
    const float old_part = exp2f(run - max), new_part = exp2f(leaf_max - max);
    acc.x = __fmaf_rn(leaf.x, new_part, __fmul_rn(acc.x, old_part));
    acc.y = __fmaf_rn(leaf.y, new_part, __fmul_rn(acc.y, old_part));
    acc.z = __fmaf_rn(leaf.z, new_part, __fmul_rn(acc.z, old_part));
    acc.w = __fmaf_rn(leaf.w, new_part, __fmul_rn(acc.w, old_part));
    run = max;
  }
  return acc;
}

// Columns [first_column, + kColumns) of the result: thread c of the first kColumns gets column first_column + c.
__device__ float Merge(const Partials& p, int first_column) {
  __shared__ float2 unit_sums[kMaxItems * kMaxHeads];  // [unit][head]
  __shared__ float4 group_sums[kGroups][32];
  const int per_unit = p.fine ? kLeavesPerBlock : 1;
  const int units = (p.count + per_unit - 1) / per_unit;
  const int first_head = first_column / p.head_columns;
  const int heads = (min(first_column + kColumns, p.columns) - 1) / p.head_columns - first_head + 1;
  for (int i = threadIdx.x; i < units * heads; i += kThreads) {
    const int item = i / heads * per_unit;
    unit_sums[i] = MergeLeafSums(p, item, min(p.count, item + per_unit), first_head + i % heads);
  }
  __syncthreads();

  const int group = threadIdx.x / 32, column = first_column + threadIdx.x % 32 * 4;
  float4 acc = make_float4(0, 0, 0, 0);
  if (column < p.columns) {
    const int head = column / p.head_columns - first_head;
    float max = unit_sums[head].x;
    for (int unit = 1; unit < units; ++unit) max = fmaxf(max, unit_sums[unit * heads + head].x);
    float sum = 0.0f;
    for (int unit = 0; unit < units; ++unit) {
      const float2 part = unit_sums[unit * heads + head];
      sum = __fmaf_rn(part.y, exp2f(part.x - max), sum);
    }
    const float inverse = 1.0f / sum;
#pragma unroll 4
    for (int unit = group; unit < units; unit += kGroups) {
      const float4 part = p.fine ? MergeLeafColumns(p, unit * per_unit, min(p.count, (unit + 1) * per_unit),
                                                    first_head + head, column)
                                 : *reinterpret_cast<const float4*>(p.items + unit * p.stride + column);
      const float weight = __fmul_rn(exp2f(unit_sums[unit * heads + head].x - max), inverse);
      acc.x = __fmaf_rn(part.x, weight, acc.x);
      acc.y = __fmaf_rn(part.y, weight, acc.y);
      acc.z = __fmaf_rn(part.z, weight, acc.z);
      acc.w = __fmaf_rn(part.w, weight, acc.w);
    }
  }
  group_sums[group][threadIdx.x % 32] = acc;
  __syncthreads();
  if (threadIdx.x >= kColumns) return 0.0f;
  float result = 0.0f;
  for (int g = 0; g < kGroups; ++g) result += reinterpret_cast<const float*>(group_sums[g])[threadIdx.x];
  return result;
}

// blockIdx.x: row; blockIdx.y: columns of the feedback accumulator, then of each forward chunk's.
__global__ void __launch_bounds__(kThreads) AttentionMergeKernel(AttentionParams p, AttentionShape shape,
                                                                 int feedback_tiles) {
  PdlWait();
  PdlTrigger();
  const int row = blockIdx.x, width = p.state.width;
  if (row == 0 && blockIdx.y == 0 && threadIdx.x == 0) *p.next_item = 0;  // for the next layer
  const bool fine = p.header->fine != 0, feedback = static_cast<int>(blockIdx.y) < feedback_tiles;
  Partials part;
  part.fine = fine;
  if (feedback) {
    const int first = p.feedback_first[row];
    part.count = p.feedback_first[row + 1] - first;
    part.items = p.partials + first * shape.partial_floats;
    part.stride = shape.partial_floats;
    part.columns = part.head_columns = width;
    const int column = blockIdx.y * kColumns + threadIdx.x;
    const float value = part.count > 0 ? Merge(part, blockIdx.y * kColumns) : 0.0f;
    if (threadIdx.x < kColumns && column < width) p.ctx[static_cast<int64_t>(row) * width + column] = value;
    return;
  }
  constexpr int kForwardColumns = 256;
  const int kv = p.state.kv, d = p.head_width, group_heads = shape.group_heads;
  const int tiles = group_heads * kForwardColumns / kColumns;  // of a chunk
  const int chunk = (blockIdx.y - feedback_tiles) / tiles, tile = (blockIdx.y - feedback_tiles) % tiles;
  const int column_chunks = (kv + kForwardColumns - 1) / kForwardColumns;
  const int first = p.forward_first[row];
  part.count = p.forward_first[row + 1] - first;
  part.items =
      p.partials + (p.feedback_first[p.row_count] + static_cast<int64_t>(first) * shape.forward_chunks + chunk) *
                       shape.partial_floats;
  part.stride = shape.partial_floats * shape.forward_chunks;
  part.columns = group_heads * kForwardColumns;
  part.head_columns = d;
  const float value = part.count > 0 ? Merge(part, tile * kColumns) : 0.0f;
  // Column c of the accumulator: query head `group_heads * pass + c / 256` of the key head of column c % 256.
  const int c = tile * kColumns + threadIdx.x, group = p.heads / p.kv_heads;
  const int kv_column = chunk % column_chunks * kForwardColumns + c % kForwardColumns;
  const int in_group = chunk / column_chunks * group_heads + c / kForwardColumns;
  if (threadIdx.x >= kColumns || kv_column >= kv || in_group >= group) return;
  const int column = (kv_column / d * group + in_group) * d + kv_column % d;
  if (p.o_bf16 != nullptr) {
    static_cast<bf16*>(p.o_bf16)[static_cast<int64_t>(row) * p.pitch + column] = __float2bfloat16_rn(value);
  }
  if (p.o != nullptr) p.o[static_cast<int64_t>(row) * width + column] = value;
}

}  // namespace

cudaError_t LaunchAttentionMerge(const AttentionParams& params, const AttentionShape& shape,
                                 const LaunchContext& context) {
  const int feedback_tiles = (params.state.width + kColumns - 1) / kColumns;
  const int forward_tiles = shape.forward_chunks * shape.group_heads * 256 / kColumns;
  return LaunchKernel(AttentionMergeKernel, dim3(params.row_count, feedback_tiles + forward_tiles), dim3(kThreads),
                      0, context.dependent, context.stream, params, shape, feedback_tiles);
}

}  // namespace sessa::cuda
