// The merge of the attentions' items inside the few-rows kernel: each block of threads makes its own eight
// columns of ctx and of o, for all rows. Per column these are the operations of decode_merge.cuh in the same
// order.
#pragma once

#include "kernels/cuda/few_rows_shared.cuh"

namespace sessa::cuda {

// Where this block's columns of o are: of query head h, in the forward items of h's key head.
template <int V>
__device__ __forceinline__ void FindColumns(const FewRowsParams& p, FewRowsMemory<V>& m) {
  const int column = blockIdx.x * kGroup, head = column >> p.head_shift, in_group = head % p.group;
  const int kv_column = (head / p.group << p.head_shift) + (column & (p.head_width - 1));
  const int heads = p.attention.group_heads;
  m.merge_chunk = in_group / heads * p.column_chunks + kv_column / kFewColumns;
  m.merge_column = in_group % heads * kFewColumns + kv_column % kFewColumns;
  m.merge_sums = heads * kFewColumns + 2 * (m.merge_column >> p.head_shift);
}

// This block's columns of the items' accumulators, with the maximum and the sum of their head; and gamma.
template <int V>
__device__ __forceinline__ void AwaitItems(const FewRowsParams& p, int feedback_items, int forward_items,
                                           const FewRowsPass& pass, FewRowsMemory<V>& m) {
  constexpr int kLoads = 4, kPairs = kGroup / 2 + 1;  // of an item: the accumulator's, maximum and sum
  const int pairs = (feedback_items + forward_items) * kPairs, chunks = p.attention.forward_chunks;
  const int64_t stride = p.attention.partial_floats;
  const Word* feedback = p.mail.parts + blockIdx.x * kGroup;
  const int leaves = p.attention.warps;
  const Word* forward = p.mail.parts + (feedback_items + m.merge_chunk * leaves) * stride + m.merge_column;
  const int feedback_sums = p.width - blockIdx.x * kGroup, forward_sums = m.merge_sums - m.merge_column;
  const int thread = threadIdx.x;
#pragma unroll 1
  for (int first = thread; first < pairs || first == thread; first += kLoads * kFewThreads) {
    uint32_t numbers[2 * (kLoads + 1)];
    AwaitPairs<kLoads + 1>(
        pass.epoch,
        [&](int i) -> const Word* {
          if (i == kLoads)
            return thread < pass.rows ? p.mail.y + thread * p.y_pitch + p.project_outputs - 1 : nullptr;
          const int pair = first + i * kFewThreads, item = pair / kPairs, part = pair % kPairs;
          if (pair >= pairs) return nullptr;
          if (item < feedback_items) {
            return feedback + item * stride + (part < kGroup / 2 ? 2 * part : feedback_sums);
          }
          const int in_unit = (item - feedback_items) % leaves, unit = (item - feedback_items) / leaves;
          return forward + static_cast<int64_t>(unit * leaves * chunks + in_unit) * stride +
                 (part < kGroup / 2 ? 2 * part : forward_sums);
        },
        numbers);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int pair = first + i * kFewThreads;
      if (pair >= pairs) break;
      *reinterpret_cast<float2*>(&m.merge.items[pair / kPairs][pair % kPairs * 2]) =
          make_float2(__uint_as_float(numbers[2 * i]), __uint_as_float(numbers[2 * i + 1]));
    }
    if (thread < pass.rows) m.gamma[thread] = __uint_as_float(numbers[2 * kLoads]);
  }
}

// The sum of `count` parts: every `stride`th item from `first` on, each relative to its maximum. `sums`:
// (maximum, sum) of item j at sums[j * sums_stride]. `of_all`: with the maximum of all parts, else with that
// of those so far. Column c of the sum replaces that of the first part. Returns (maximum, sum).
__device__ __forceinline__ float2 MergeGroup(MergeMemory& memory, const float2* sums, int sums_stride,
                                             int first, int stride, int count, bool of_all, int c) {
  float2 total = make_float2(kNoMaximum, 0.0f);
  if (of_all) {
#pragma unroll 4
    for (int i = 0; i < count; ++i) total.x = fmaxf(total.x, sums[(first + i * stride) * sums_stride].x);
  }
  float acc = 0.0f;
#pragma unroll 4
  for (int i = 0; i < count; ++i) {
    const int item = first + i * stride;
    const float2 part = sums[item * sums_stride];
    const auto [old, factor] = AddSum(total, part);
    acc = __fmaf_rn(memory.items[item][c], factor, __fmul_rn(acc, old));
  }
  memory.items[first][c] = acc;
  return total;
}

// ctx and gamma to shared memory, o to the other blocks of threads. Ends with all threads together, the
// memory free.
template <int V>
__device__ __forceinline__ void MergeItems(const FewRowsParams& p, const FewRowsPass& pass,
                                           FewRowsMemory<V>& m) {
  const int leaves = p.attention.warps;
  const int feedback_items = m.feedback_first[pass.rows] * leaves,
            forward_items = m.forward_first[pass.rows] * leaves;
  MergeMemory& memory = m.merge;
  AwaitItems(p, feedback_items, forward_items, pass, m);
  SyncComputing();
  // A thread: one column of the feedback (kind 0) or of the forward attention; of some units, runs, sections,
  // then of a row.
  const int c = threadIdx.x % kGroup, kind = threadIdx.x / kGroup % 2, slot = threadIdx.x / (2 * kGroup);
  constexpr int kThreadSlots = kFewThreads / (2 * kGroup);
  const int32_t* first_of = kind == 0 ? m.feedback_first : m.forward_first;
  const int base = kind == 0 ? 0 : feedback_items, units = first_of[pass.rows];
#pragma unroll 1
  for (int unit = slot; unit < units; unit += kThreadSlots) {
    const int first = base + unit * leaves;
    const auto* sums = reinterpret_cast<const float2*>(&memory.items[0][kGroup]);
    const float2 total = MergeGroup(memory, sums, (kGroup + 2) / 2, first, 1, leaves, true, c);
    if (c == 0) memory.sums[0][first] = total;
  }
  SyncComputing();
  const int most = max(m.feedback_first[pass.rows], m.forward_first[pass.rows]);  // units of a row
  int level = 0;
#pragma unroll 1
  for (int span = 1; span < most; span *= kFanIn, level ^= 1) {  // units that a part stands for
    const int groups = (most + span * kFanIn - 1) / (span * kFanIn);
#pragma unroll 1
    for (int i = slot; i < pass.rows * groups; i += kThreadSlots) {
      const int row = i / groups, unit = first_of[row] + i % groups * span * kFanIn;
      const int count = min((first_of[row + 1] - unit + span - 1) / span, kFanIn),
                first = base + unit * leaves;
      if (count <= 0) continue;
      const float2 total = MergeGroup(memory, memory.sums[level], 1, first, span * leaves, count, false, c);
      if (c == 0) memory.sums[level ^ 1][first] = total;
    }
    SyncComputing();
  }
  const int row = slot;
  if (row < pass.rows) {  // whole groups of eight lanes
    float value = 0.0f;   // without a past
    if (first_of[row + 1] > first_of[row]) {
      const int first = base + first_of[row] * leaves;
      value = memory.items[first][c] * (1.0f / memory.sums[level][first].y);
    }
    if (kind == 0) {
      m.ctx[row][c] = value;
    } else {
      const float next = __shfl_down_sync(0xffu << (threadIdx.x & 24), value, 1, kGroup);
      if (c % 2 == 0) {
        Post(p.mail.o + PairWord(row, static_cast<int>(blockIdx.x) * kGroup + c), PackBf16(value, next),
             pass.epoch);
      }
    }
  }
  FenceCopies();
  SyncComputing();
}

}  // namespace sessa::cuda
