// Merging the parts of a row's attention, always in the same order (attention_schedule.h). A part is
// (acc, m, l), with acc and l relative to the maximum m; adding it to (A, M, L) is
//   M' = max(M, m);   A = A 2^(M - M') + acc 2^(m - M');   L = L 2^(M - M') + l 2^(m - M')
// The leaves of a unit are added with M their maximum from the start, all others with that of those so far,
// so that a multiprocessor can take the units of a run one after the other. The result is A / L. Warps of
// their own do it, while those that compute go on to their next item. Each has columns of its own all the way
// up to the row's result, so that merging warps wait for nobody: whoever finishes the last part of a group
// merges the group's columns and passes them on to the next level.
#pragma once

#include "kernels/cuda/decode_items.cuh"
#include "kernels/cuda/decode_softmax.cuh"

namespace sessa::cuda {

inline constexpr int kMergeWarps = 4;    // of a block of threads, for both engines
inline constexpr int kSumColumns = 256;  // at most, that share a (maximum, sum) in global memory: a warp's

// Accumulators and (maximum, sum)s, in shared or in global memory: of a lane's columns in the first part.
struct Parts {
  const float* acc[2];
  const float2* sums[2];
  int acc_stride, sums_stride;  // floats, float2 from a part to the next
  int count;
  int single;  // of so many only every fourth is there, for itself and the next three
};

// What other multiprocessors have written is not read through L1. racecheck takes such a load for
// synchronisation, and is to see how leaves are read.
__device__ __forceinline__ float2 LoadPart(const float2* at) {
#if SESSA_RACECHECK
  if (__isShared(at)) return *at;
#endif
  float2 x;
  asm volatile("ld.relaxed.gpu.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"(at) : "memory");
  return x;
}
__device__ __forceinline__ float4 LoadPart(const float4* at) {
#if SESSA_RACECHECK
  if (__isShared(at)) return *at;
#endif
  float4 x;
  asm volatile("ld.relaxed.gpu.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "l"(at)
               : "memory");
  return x;
}

// Parts are soon read, and in the next layer there are others in their place: they are to stay in the L2
// cache, for a write between reads costs memory more than its bytes.
__device__ __forceinline__ uint64_t KeepInL2() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void StorePart(float2* at, const float2& x) {
  asm volatile("st.global.L2::cache_hint.v2.f32 [%0], {%1, %2}, %3;" ::"l"(at), "f"(x.x), "f"(x.y),
               "l"(KeepInL2())
               : "memory");
}
__device__ __forceinline__ void StorePart(float4* at, const float4& x) {
  asm volatile("st.global.L2::cache_hint.v4.f32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(at), "f"(x.x), "f"(x.y),
               "f"(x.z), "f"(x.w), "l"(KeepInL2())
               : "memory");
}

// Of a block of kSumColumns columns a lane has two times four, side by side with other lanes': what goes to
// global memory goes in whole sectors.
struct LaneColumns {
  int at[2];
  bool inside[2];

  __device__ __forceinline__ LaneColumns(int block, int columns) {
    const int first = block * kSumColumns + static_cast<int>(threadIdx.x & 31) * 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int column = first + h * kSumColumns / 2;
      inside[h] = column < columns;
      at[h] = min(column, columns - 4);
    }
  }
};

// A lane's columns of a sum of parts.
struct Merged {
  float4 acc[2];
  float2 total[2];  // maximum, sum

  __device__ __forceinline__ void Reset() {
    acc[0] = acc[1] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    total[0] = total[1] = make_float2(kNoMaximum, 0.0f);
  }
  __device__ __forceinline__ void Add(int h, const float4& part, const float2& sum) {
    const auto [old, factor] = AddSum(total[h], sum);
    acc[h].x = __fmaf_rn(part.x, factor, __fmul_rn(acc[h].x, old));
    acc[h].y = __fmaf_rn(part.y, factor, __fmul_rn(acc[h].y, old));
    acc[h].z = __fmaf_rn(part.z, factor, __fmul_rn(acc[h].z, old));
    acc[h].w = __fmaf_rn(part.w, factor, __fmul_rn(acc[h].w, old));
  }
};

// `leaves`: with the maximum of all (at most four), else with that of those so far.
__device__ __forceinline__ Merged MergeParts(const Parts& parts, bool leaves) {
  Merged merged;
  merged.Reset();
#pragma unroll 1
  for (int first = 0; first < parts.count; first += kFanIn) {
    const bool single = first < parts.single;
    const int count = single ? 1 : min(parts.count - first, kFanIn);
    float2 sums[kFanIn][2];
    float4 accs[kFanIn][2];
#pragma unroll
    for (int i = 0; i < kFanIn; ++i) {  // beyond the end the last one, again
      const int part = first + min(i, count - 1);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        sums[i][h] = LoadPart(parts.sums[h] + part * parts.sums_stride);
        accs[i][h] = LoadPart(reinterpret_cast<const float4*>(parts.acc[h] + part * parts.acc_stride));
      }
    }
    Merged four;
    four.Reset();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (leaves) {
#pragma unroll
        for (int i = 0; i < kFanIn; ++i) four.total[h].x = fmaxf(four.total[h].x, sums[i][h].x);
      }
#pragma unroll
      for (int i = 0; i < kFanIn; ++i) {
        if (i < count) four.Add(h, accs[i][h], sums[i][h]);
      }
      merged.Add(h, four.acc[h], four.total[h]);
    }
  }
  return merged;
}

// The levels at which parts meet in global memory. A part's slot has an accumulator and, for each level, room
// for its (maximum, sum)s and a counter of arrivals for each block of kSumColumns columns: a group meets in
// the slot of its first part.
enum Level { kLeaves = 0, kUnits = 1, kSections = 2, kLevels = 3 };
inline constexpr int kMaxBlocks = 8;
static_assert(AttentionShape::kCounters == kLevels * kMaxBlocks);

// Adds to a counter; whoever has seen the last arrival sees what all wrote before theirs.
__device__ __forceinline__ int Arrive(int32_t* counter, int arrivals) {
  int before;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(arrivals)
               : "memory");
  return before;
}

// True in a merging warp if its columns of all other parts of a group have arrived; it can read them then.
// `own`: of `count` parts that ours stands for.
__device__ __forceinline__ bool IsLast(int32_t* counter, int own, int count) {
  __syncwarp();  // all of our part is written
  int last = 0;
  if ((threadIdx.x & 31) == 0) {
    last = Arrive(counter, own) == count - own ? 1 : 0;
    if (last != 0) *counter = 0;  // for the next launch
  }
  __syncwarp();
  return __shfl_sync(kWholeWarp, last, 0) != 0;
}

// Takes a block of columns of an item's leaves from shared memory to where they are needed next, up to the
// row's result. `run`: of the units before, if the item is one of a whole run. `release`: the leaves are not
// needed afterwards. The code is the same for both attentions, so that it stays small.
template <typename Feedback, typename Forward>
__device__ __forceinline__ void DeliverBlock(const AttentionParams& p, const AttentionShape& shape,
                                             const Engine& engine, bool forward, const AttentionItem& item,
                                             int block, bool release, Merged& run) {
  const int columns = forward ? Forward::Columns(p) : Feedback::Columns(p), d = p.head_width;
  const int sum_columns = forward ? d : kSumColumns;  // in global memory
  const int slot_sums = (columns + sum_columns - 1) / sum_columns;
  const int slot_floats = static_cast<int>(shape.partial_floats);
  const LaneColumns own(block, columns);
  const int sum_at[2] = {own.at[0] / sum_columns, own.at[1] / sum_columns};
  const auto slot_of = [&](int slot) { return p.partials + static_cast<int64_t>(slot) * slot_floats; };
  const auto sums_of = [&](int slot, int level) {
    return reinterpret_cast<float2*>(slot_of(slot) + columns) + level * slot_sums;
  };
  const bool one_leaf = item.leaf_end - item.leaf_begin == 1 && item.leaves > 1;  // others have the rest
  const float2* leaf_sums = engine.leaf_sums;
  Parts parts{{engine.leaves + own.at[0], engine.leaves + own.at[1]},
              {leaf_sums + (forward ? sum_at[0] : 0), leaf_sums + (forward ? sum_at[1] : 0)},
              columns,
              forward ? slot_sums : 1,
              one_leaf ? 1 : item.leaves,
              0};
  int level = one_leaf ? kLeaves : kUnits;  // at which the merged parts meet others
#pragma unroll 1
  for (bool first = true;; first = false, ++level) {
    Merged merged = MergeParts(parts, level <= kUnits);
    if (first && release) engine.control->handover.Release();
    int unit = item.unit, part = 1;  // the first of the merged parts; how many of the group they are
    if (level == kUnits && item.InWholeRun()) {
      const int in_run = unit % kRunUnits;
      if (in_run == 0) run.Reset();
#pragma unroll
      for (int h = 0; h < 2; ++h) run.Add(h, merged.acc[h], merged.total[h]);
      if (in_run + 1 < kRunUnits && unit + 1 < item.units) return;
      merged = run;
      unit -= in_run;
      part = in_run + 1;
    }
    if (level == kSections) unit -= unit % kSectionUnits;
    const bool is_result = level == kLevels || (level == kUnits && item.units == part) ||
                           (level == kSections && item.units <= kSectionUnits);
    const int slot = item.slot + (level == kLeaves ? item.leaf_begin : (unit - item.unit) * item.slot_stride);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int column = own.at[h];
      if (!own.inside[h]) continue;
      if (!is_result) {
        StorePart(reinterpret_cast<float4*>(slot_of(slot) + column), merged.acc[h]);
        if (column % sum_columns == 0) StorePart(sums_of(slot, level) + sum_at[h], merged.total[h]);
        continue;
      }
      const float factor = 1.0f / merged.total[h].y;
      const float4 result = make_float4(merged.acc[h].x * factor, merged.acc[h].y * factor,
                                        merged.acc[h].z * factor, merged.acc[h].w * factor);
      if (forward) {
        Forward::Output(p, item, column, result);
      } else {
        Feedback::Output(p, item, column, result);
      }
    }
    if (is_result) return;
    // The group: of which slot its first part is, and from a part to the next.
    int group = item.slot, stride = 1, count = item.leaves, single = 0;
    if (level == kUnits) {
      const int section = unit - unit % kSectionUnits;
      group = item.slot + (section - item.unit) * item.slot_stride;
      stride = item.slot_stride;
      count = min(kSectionUnits, item.units - section);
      single = item.whole_units - section;
    } else if (level == kSections) {
      group = item.slot - item.unit * item.slot_stride;
      stride = kSectionUnits * item.slot_stride;
      count = SectionsOf(item.units);
    }
    if (!IsLast(p.arrivals + group * AttentionShape::kCounters + level * kMaxBlocks + block, part, count)) {
      return;
    }
    const float* acc = slot_of(group);
    const float2* sums = sums_of(group, level);
    parts = {{acc + own.at[0], acc + own.at[1]},
             {sums + sum_at[0], sums + sum_at[1]},
             stride * slot_floats,
             stride * slot_floats / 2,
             count,
             single};
  }
}

// A merging warp takes the items of both engines as they come.
template <typename Feedback, typename Forward>
__device__ __forceinline__ void MergeItems(const AttentionParams& p, const AttentionShape& shape,
                                           const Engine& feedback, const Engine& forward, int warp) {
  constexpr int kPollNanoseconds = 40;
  PdlWait();
  Merged runs[2][kMaxBlocks / kMergeWarps];
  uint32_t parities = 0, open = 3;  // a bit for each engine
#pragma unroll 1
  for (int turn = 0; open != 0; turn ^= 1) {
    Engine engine = feedback;
    if (turn != 0) engine = forward;
    const uint32_t parity = parities >> turn & 1;
    if ((open >> turn & 1) == 0 || !engine.control->handover.Arrived(parity)) {
      __nanosleep(kPollNanoseconds);
      continue;
    }
    parities ^= 1u << turn;
    const AttentionItem item = engine.control->handover.items[parity];
    if (item.row < 0) {
      open &= ~(1u << turn);
      continue;
    }
    const int columns = turn != 0 ? Forward::Columns(p) : Feedback::Columns(p);
    const int blocks = (columns + kSumColumns - 1) / kSumColumns;
    if (warp >= blocks) engine.control->handover.Release();
#pragma unroll 1
    for (int block = warp; block < blocks; block += kMergeWarps) {
      DeliverBlock<Feedback, Forward>(p, shape, engine, turn != 0, item, block, block + kMergeWarps >= blocks,
                                      runs[turn][block / kMergeWarps]);
    }
  }
}

}  // namespace sessa::cuda
