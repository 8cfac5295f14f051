// Merging the parts of a row's attention, always in the same order (attention_schedule.h):
//   M = max_i m_i;   acc = sum_i acc_i 2^(m_i - M);   l = sum_i l_i 2^(m_i - M);   result = acc / l
// over the leaves of a unit, the units of a run, the runs of a row. Warps of their own do it, while those
// that compute go on to their next item. Each has columns of its own all the way up to the row's result, so
// that merging warps wait for nobody: whoever finishes the last part of a group merges the group's columns
// and passes them on to the next level.
#pragma once

#include "kernels/cuda/decode_items.cuh"
#include "kernels/cuda/decode_softmax.cuh"

namespace sessa::cuda {

inline constexpr int kMergeWarps = 4;     // of a block of threads, for both engines
inline constexpr int kMergedColumns = 8;  // that a lane merges at a time; they belong to one head
inline constexpr int kSumColumns = 256;   // at most, that share a (maximum, sum) in global memory: a warp's
static_assert(kSumColumns == 32 * kMergedColumns);

// Accumulators and the (maximum, sum) of every `sum_columns` of their columns, in shared or in global memory.
struct Parts {
  const float* acc;
  int acc_stride;  // floats from a part to the next
  const float2* sums;
  int sums_stride;  // float2
  int sum_columns;
  int count;
};

// What other multiprocessors have written is not read through L1.
__device__ __forceinline__ float LoadPart(const float* at) {
  float x;
  asm volatile("ld.relaxed.gpu.f32 %0, [%1];" : "=f"(x) : "l"(at) : "memory");
  return x;
}
__device__ __forceinline__ float2 LoadPart(const float2* at) {
  float2 x;
  asm volatile("ld.relaxed.gpu.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"(at) : "memory");
  return x;
}
__device__ __forceinline__ float4 LoadPart(const float4* at) {
  float4 x;
  asm volatile("ld.relaxed.gpu.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "l"(at)
               : "memory");
  return x;
}

inline constexpr int kMergedParts = 4;  // whose loads are under way together

// sink(column, acc of columns [column, + 8), (M, l)) for the columns of each lane of merging warp `warp`.
template <typename Sink>
__device__ __forceinline__ void MergeParts(const Parts& parts, int columns, int warp, const Sink& sink) {
#pragma unroll 1
  for (int column = (warp * 32 + static_cast<int>(threadIdx.x & 31)) * kMergedColumns; column < columns;
       column += kMergeWarps * kSumColumns) {
    const float2* all_sums = parts.sums + column / parts.sum_columns;
    float2 sums[kMergedParts];
    float4 accs[kMergedParts][2];
    const auto load = [&](int first) {  // beyond the end the last one, again
#pragma unroll
      for (int i = 0; i < kMergedParts; ++i) {
        const int part = min(first + i, parts.count - 1);
        const auto* acc = reinterpret_cast<const float4*>(parts.acc + part * parts.acc_stride + column);
        sums[i] = LoadPart(all_sums + part * parts.sums_stride);
        accs[i][0] = LoadPart(acc);
        accs[i][1] = LoadPart(acc + 1);
      }
    };
    load(0);
    float2 total = make_float2(kNoMaximum, 0.0f);
#pragma unroll
    for (int i = 0; i < kMergedParts; ++i) total.x = fmaxf(total.x, sums[i].x);
    constexpr int kRest = kRunUnits - kMergedParts;
#pragma unroll 1
    for (int first = kMergedParts; first < parts.count; first += kRest) {
      float rest[kRest];
#pragma unroll
      for (int i = 0; i < kRest; ++i) {
        rest[i] = LoadPart(&all_sums[min(first + i, parts.count - 1) * parts.sums_stride].x);
      }
#pragma unroll
      for (int i = 0; i < kRest; ++i) total.x = fmaxf(total.x, rest[i]);
    }
    float acc[8] = {};
#pragma unroll 1
    for (int first = 0; first < parts.count; first += kMergedParts) {
      if (first > 0) load(first);
#pragma unroll
      for (int i = 0; i < kMergedParts; ++i) {
        if (first + i < parts.count) {
          const float factor = Exp2(sums[i].x - total.x);
          total.y = __fmaf_rn(sums[i].y, factor, total.y);
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            acc[4 * e] = __fmaf_rn(accs[i][e].x, factor, acc[4 * e]);
            acc[4 * e + 1] = __fmaf_rn(accs[i][e].y, factor, acc[4 * e + 1]);
            acc[4 * e + 2] = __fmaf_rn(accs[i][e].z, factor, acc[4 * e + 2]);
            acc[4 * e + 3] = __fmaf_rn(accs[i][e].w, factor, acc[4 * e + 3]);
          }
        }
      }
    }
    sink(column, acc, total);
  }
}

// The levels at which parts meet in global memory. A part's slot has an accumulator and, for each level, room
// for its (maximum, sum)s and a counter of arrivals for each merging warp: a group meets in the slot of its
// first part.
enum Level { kLeaves = 0, kUnits = 1, kRuns = 2, kLevels = 3 };
static_assert(AttentionShape::kCounters == kLevels * kMergeWarps);

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

// True in a merging warp if its columns of all other parts of a group of `count` have arrived; it can read
// them then.
__device__ __forceinline__ bool IsLast(int32_t* counter, int count) {
  __syncwarp();  // all of our part is written
  int last = 0;
  if ((threadIdx.x & 31) == 0) {
    last = Arrive(counter) == count - 1 ? 1 : 0;
    if (last != 0) *counter = 0;  // for the next launch
  }
  __syncwarp();
  return __shfl_sync(kWholeWarp, last, 0) != 0;
}

// Takes a merging warp's columns of an item's leaves from shared memory to where they are needed next, up to
// the row's result. The code is the same for both attentions, so that it stays small.
template <typename Feedback, typename Forward>
__device__ __forceinline__ void DeliverItem(const AttentionParams& p, const AttentionShape& shape,
                                            const Engine& engine, bool forward, const AttentionItem& item,
                                            int warp) {
  const int columns = forward ? Forward::Columns(p) : Feedback::Columns(p);
  const int head_columns = forward ? Forward::HeadColumns(p) : Feedback::HeadColumns(p);
  const int sum_columns = min(head_columns, kSumColumns),
            slot_floats = static_cast<int>(shape.partial_floats);
  const auto slot_of = [&](int slot) { return p.partials + static_cast<int64_t>(slot) * slot_floats; };
  const auto sums_of = [&](int slot, int level) {
    return reinterpret_cast<float2*>(slot_of(slot) + columns) +
           level * ((columns + sum_columns - 1) / sum_columns);
  };
  const bool one_leaf = item.leaf_end - item.leaf_begin == 1 && item.leaves > 1;  // others have the rest
  Parts parts{engine.leaves,          columns,      engine.leaf_sums,
              columns / head_columns, head_columns, one_leaf ? 1 : item.leaves};
  // Where the merged parts go: to a slot, to be merged at `level` there, or out.
  int slot = item.slot + (one_leaf ? item.leaf_begin : 0);
  const int first_level = one_leaf ? kLeaves : kUnits;
#pragma unroll 1
  for (int level = first_level;; ++level) {
    const bool is_result = level == kLevels || (level == kUnits && item.units == 1) ||
                           (level == kRuns && item.units <= kRunUnits);
    MergeParts(parts, columns, warp, [&](int column, float(&acc)[8], float2 total) {
      if (is_result) {
        const float part = 1.0f / total.y;
#pragma unroll
        for (int e = 0; e < 8; ++e) acc[e] *= part;
        if (forward) {
          Forward::Output(p, item, column, acc);
        } else {
          Feedback::Output(p, item, column, acc);
        }
        return;
      }
      Store8(slot_of(slot) + column, acc);
      if (column % sum_columns == 0) sums_of(slot, level)[column / sum_columns] = total;
    });
    if (level == first_level) engine.control->handover.Release();
    if (is_result) return;
    const Group group = GroupOf(item, level);
    if (!IsLast(p.arrivals + group.slot * AttentionShape::kCounters + level * kMergeWarps + warp,
                group.count)) {
      return;
    }
    slot = group.slot;
    const int stride = group.stride * slot_floats;
    parts = {slot_of(slot), stride, sums_of(slot, level), stride / 2, sum_columns, group.count};
  }
}

// A merging warp takes the items of both engines as they come.
template <typename Feedback, typename Forward>
__device__ __forceinline__ void MergeItems(const AttentionParams& p, const AttentionShape& shape,
                                           const Engine& feedback, const Engine& forward, int warp) {
  constexpr int kPollNanoseconds = 40;
  PdlWait();
  uint32_t parities = 0, open = 3;  // a bit for each engine
#pragma unroll 1
  for (int turn = 0; open != 0; turn ^= 1) {
    Engine engine = feedback;
    if (turn != 0) engine = forward;
    if ((open >> turn & 1) == 0 || !engine.control->handover.Arrived(parities >> turn & 1)) {
      __nanosleep(kPollNanoseconds);
      continue;
    }
    parities ^= 1u << turn;
    const AttentionItem item = engine.control->handover.item;
    if (item.row < 0) {
      open &= ~(1u << turn);
    } else if (warp * kSumColumns < (turn != 0 ? Forward::Columns(p) : Feedback::Columns(p))) {
      DeliverItem<Feedback, Forward>(p, shape, engine, turn != 0, item, warp);
    } else {
      engine.control->handover.Release();
    }
  }
}

}  // namespace sessa::cuda
