// Merging the parts of a row's attention, always in the same order (attention_schedule.h):
//   M = max_i m_i;   acc = sum_i acc_i 2^(m_i - M);   l = sum_i l_i 2^(m_i - M);   result = acc / l
// over the leaves of a unit, the units of a run, the runs of a row. Whoever finishes the last part of a group
// merges it and passes the result on to the next level, so there is no second kernel to launch.
#pragma once

#include "kernels/cuda/decode_items.cuh"
#include "kernels/cuda/decode_softmax.cuh"

namespace sessa::cuda {

// Accumulators and the (maximum, sum) of their heads, in shared or in global memory.
struct Parts {
  const float* acc;
  int acc_stride;  // floats from a part to the next
  const float2* sums;
  int sums_stride;  // float2
  int count;
};

// What other multiprocessors have written is not read through L1.
__device__ __forceinline__ float4 LoadPart(const float* at) {
  float4 x;
  asm volatile("ld.relaxed.gpu.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "l"(at)
               : "memory");
  return x;
}
__device__ __forceinline__ float2 LoadPart(const float2* at) {
  float2 x;
  asm volatile("ld.relaxed.gpu.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"(at) : "memory");
  return x;
}

__device__ __forceinline__ void AddScaled(float4& acc, const float4& part, float factor) {
  acc.x = __fmaf_rn(part.x, factor, acc.x);
  acc.y = __fmaf_rn(part.y, factor, acc.y);
  acc.z = __fmaf_rn(part.z, factor, acc.z);
  acc.w = __fmaf_rn(part.w, factor, acc.w);
}

inline constexpr int kMergedColumns = 8;  // that a thread merges at a time; they belong to one head
inline constexpr int kMergedParts = 4;    // whose loads are under way together

// sink(column, head, acc of columns [column, + 4), of [column + 4, + 4), (M, l)) for the columns of each of
// `threads` threads.
template <typename Sink>
__device__ __forceinline__ void MergeParts(const Parts& parts, int columns, int head_columns, int thread,
                                           int threads, const Sink& sink) {
#pragma unroll 1
  for (int column = thread * kMergedColumns; column < columns; column += threads * kMergedColumns) {
    const int head = column / head_columns;
    float2 sums[kMergedParts];
    float4 lows[kMergedParts], highs[kMergedParts];
    const auto load = [&](int first) {  // beyond the end the last one, again
#pragma unroll
      for (int i = 0; i < kMergedParts; ++i) {
        const int part = min(first + i, parts.count - 1);
        const float* acc = parts.acc + part * parts.acc_stride + column;
        sums[i] = LoadPart(parts.sums + part * parts.sums_stride + head);
        lows[i] = LoadPart(acc);
        highs[i] = LoadPart(acc + 4);
      }
    };
    float2 total = make_float2(kNoMaximum, 0.0f);
#pragma unroll 1
    for (int first = parts.count - 1; first >= 0; first -= kMergedParts) {  // ends with the first ones loaded
      load(first / kMergedParts * kMergedParts);
#pragma unroll
      for (int i = 0; i < kMergedParts; ++i) total.x = fmaxf(total.x, sums[i].x);
    }
    float4 low = make_float4(0.0f, 0.0f, 0.0f, 0.0f), high = low;
#pragma unroll 1
    for (int first = 0; first < parts.count; first += kMergedParts) {
      if (first > 0) load(first);
#pragma unroll
      for (int i = 0; i < kMergedParts; ++i) {
        if (first + i < parts.count) {
          const float factor = Exp2(sums[i].x - total.x);
          total.y = __fmaf_rn(sums[i].y, factor, total.y);
          AddScaled(low, lows[i], factor);
          AddScaled(high, highs[i], factor);
        }
      }
    }
    sink(column, head, low, high, total);
  }
}

// The levels at which parts meet in global memory. A part's slot has an accumulator and, for each level, room
// for (maximum, sum) of its heads and a counter of arrivals: a group meets in the slot of its first part.
enum Level { kLeaves = 0, kUnits = 1, kRuns = 2, kLevels = AttentionShape::kCounters };

struct Group {
  int slot, stride, count;
};

__device__ __forceinline__ Group GroupOf(const AttentionItem& item, int level) {
  const int in_run = item.unit % kRunUnits, run_first = item.unit - in_run;
  if (level == kLeaves) return {item.slot, 1, item.leaves};
  if (level == kUnits) {
    return {item.slot - in_run * item.slot_stride, item.slot_stride, min(kRunUnits, item.units - run_first)};
  }
  return {item.slot - item.unit * item.slot_stride, kRunUnits * item.slot_stride,
          (item.units + kRunUnits - 1) / kRunUnits};
}

// Adds one to a counter; whoever has seen the last arrival sees what all wrote before theirs.
__device__ __forceinline__ int Arrive(int32_t* counter) {
  int before;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// True in the engine's threads if all other parts of a group of `count` have arrived; they can be read then.
__device__ __forceinline__ bool IsLast(const Engine& engine, int thread, int32_t* counter, int count) {
  SomeThreads(engine.barrier, engine.warps * 32);  // all of our part is written
  if (thread == 0) {
    const bool last = Arrive(counter) == count - 1;
    if (last) *counter = 0;  // for the next launch
    engine.control->last = last;
  }
  SomeThreads(engine.barrier, engine.warps * 32);
  return engine.control->last != 0;
}

// Takes the leaves of an item from shared memory to where they are needed next, up to the row's result.
template <typename Kind>
__device__ __forceinline__ void DeliverItem(const AttentionParams& p, const AttentionShape& shape,
                                            const Engine& engine, const AttentionItem& item, int thread) {
  const int threads = engine.warps * 32, columns = Kind::Columns(p), head_columns = Kind::HeadColumns(p);
  const int heads = columns / head_columns, slot_floats = static_cast<int>(shape.partial_floats);
  const auto slot_of = [&](int slot) { return p.partials + static_cast<int64_t>(slot) * slot_floats; };
  const auto sums_of = [&](int slot, int level) {
    return reinterpret_cast<float2*>(slot_of(slot) + columns) + level * heads;
  };
  const bool one_leaf = item.leaf_end - item.leaf_begin == 1 && item.leaves > 1;  // others have the rest
  Parts parts{engine.leaves, columns, engine.leaf_sums, heads, one_leaf ? 1 : item.leaves};
  // Where the merged parts go: to a slot, to be merged at `level` there, or out.
  int slot = item.slot + (one_leaf ? item.leaf_begin : 0);
#pragma unroll 1
  for (int level = one_leaf ? kLeaves : kUnits;; ++level) {
    const bool is_result = level == kLevels || (level == kUnits && item.units == 1) ||
                           (level == kRuns && item.units <= kRunUnits);
    MergeParts(parts, columns, head_columns, thread, threads,
               [&](int column, int head, float4 low, float4 high, float2 total) {
                 if (is_result) {
                   const float part = 1.0f / total.y;
                   Kind::Output(p, item, column,
                                make_float4(low.x * part, low.y * part, low.z * part, low.w * part));
                   Kind::Output(p, item, column + 4,
                                make_float4(high.x * part, high.y * part, high.z * part, high.w * part));
                   return;
                 }
                 float4* to = reinterpret_cast<float4*>(slot_of(slot) + column);
                 to[0] = low;
                 to[1] = high;
                 if (column % head_columns == 0) sums_of(slot, level)[head] = total;
               });
    if (is_result) return SomeThreads(engine.barrier, threads);  // the leaves' memory is free again
    const Group group = GroupOf(item, level);
    if (!IsLast(engine, thread, p.arrivals + group.slot * kLevels + level, group.count)) return;
    slot = group.slot;
    const int stride = group.stride * slot_floats;
    parts = {slot_of(slot), stride, sums_of(slot, level), stride / 2, group.count};
  }
}

}  // namespace sessa::cuda
