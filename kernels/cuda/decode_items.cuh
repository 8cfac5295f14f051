// The items of decode attention: which tokens of which row, and how they are dealt to warps.
//
// A unit's tokens go to its leaves in chunks of U, in turns: chunk i to leaf i % leaves. Chunk after chunk is
// one contiguous stretch of a page, so that warps that work side by side read neighbouring memory.
#pragma once

#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/decode_ring.cuh"
#include "kernels/cuda/kernels.h"

namespace sessa::cuda {

struct AttentionItem {
  int row;  // < 0: there are no more items
  int position, page_begin, open_page;
  int first, closed_end, end;  // tokens [first, end); those from closed_end on are read from the open page
  int unit, units;             // of the row
  int leaf_begin, leaf_end;    // leaves of the unit that are this item's: all, or one ("fine")
  int leaves;                  // of the unit that have tokens; 0: no such unit
  int whole_units;             // so many of the row come in whole runs
  int chunk;                   // forward: columns and query heads (decode_forward.cuh)
  int slot, slot_stride;       // of the unit's result among the partials; from a unit to the row's next

  // The units of the item's run come here one after the other.
  __device__ __forceinline__ bool InWholeRun() const { return unit < whole_units; }
};

// Items on their way from the warp that deals them to those that copy and compute.
struct ItemQueue {
  static constexpr int kDepth = 2;  // what is dealt early cannot go to whoever is done early
  static constexpr int kPages = 32;
  AttentionItem items[kDepth];
  int32_t pages[kDepth][kPages];  // of the item's first blocks
  CopyBarrier full[kDepth], empty[kDepth];

  __device__ __forceinline__ void Init(int readers) {  // warps
    for (int i = 0; i < kDepth; ++i) {
      full[i].Init(kWarpArrivals);
      empty[i].Init(readers * kWarpArrivals);
    }
  }
};

// The leaves of one item on their way from the warps that compute to those that merge (decode_merge.cuh).
// Items have two places by turns: one would do, but racecheck takes that for a race.
struct Handover {
  AttentionItem items[2];
  CopyBarrier full, empty;

  __device__ __forceinline__ void Init(int writers, int readers) {  // warps
    full.Init(writers * kWarpArrivals);
    empty.Init(readers * kWarpArrivals);
  }
  // Computing warps, for the `n`th item: until the leaves of the one before may be overwritten.
  __device__ __forceinline__ void AwaitEmpty(int n) { empty.Wait((n & 1) ^ 1); }
  // Computing warps, all lanes: this warp's leaf of the `n`th item is written. The first of them writes the
  // item.
  __device__ __forceinline__ void Post(const AttentionItem& item, int n, bool first) {
    if (first && (threadIdx.x & 31) == 0) items[n & 1] = item;
    full.ArriveAsWarp();
  }
  // Merging warps: whether the leaves of an item are there, the first of all for parity 0, and so on by
  // turns. Does not wait: another engine's may be.
  __device__ __forceinline__ bool Arrived(uint32_t parity) {
    return __all_sync(kWholeWarp, full.Test(parity));
  }
  // Merging warps, all lanes: this warp needs the leaves no more.
  __device__ __forceinline__ void Release() { empty.ArriveAsWarp(); }
};

// One attention's part of a block of threads: `warps` that compute, one that copies state for them and one
// that looks up what comes next.
struct EngineControl {
  CopyBarrier full[kMaxSlots], empty[kMaxSlots];
  ItemQueue queue;
  Handover handover;
};
struct Engine {
  EngineControl* control;
  char* ring;
  float* leaves;      // [leaf][column] accumulators
  float2* leaf_sums;  // [leaf][head] maximum and sum
  int slots, warps;   // slots are a multiple of warps
};

// The row of unit `unit` of all; first_of[r] is the first unit of row r. A whole warp searches.
__device__ __forceinline__ int RowOf(const int32_t* first_of, int rows, int unit) {
  const int lane = threadIdx.x & 31;
  int low = 0;
  while (rows > 1) {  // the row is one of low .. low + rows - 1
    const int step = (rows + 31) / 32;
    const bool at_most = lane * step < rows && first_of[low + lane * step] <= unit;
    const int skipped = (__popc(__ballot_sync(kWholeWarp, at_most)) - 1) * step;
    low += skipped;
    rows = min(step, rows - skipped);
  }
  return low;
}

// Calls row(first token, end of its kind, open) for each row of chunks of an item, ascending: leaf l has the
// tokens [first + l U, + U) of it, as far as they lie before the end. U is kOpen in the open block (0: there
// is none).
template <int kClosed, int kOpen, typename Row>
__device__ __forceinline__ void ForChunkRows(const AttentionItem& item, int warps, const Row& row) {
  for (int first = item.first; first < item.closed_end; first += warps * kClosed) {
    row(first, item.closed_end, false);
  }
  if constexpr (kOpen > 0) {
    for (int first = max(item.first, item.closed_end); first < item.end; first += warps * kOpen) {
      row(first, item.end, true);
    }
  }
}

// Leaves of an item's unit that have tokens.
template <int kClosed, int kOpen>
__device__ __forceinline__ int CountLeaves(const AttentionItem& item, int warps) {
  const int closed = (item.closed_end - item.first + kClosed - 1) / kClosed;
  const int open = item.end - max(item.first, item.closed_end);
  return min(warps, kOpen > 0 ? max(closed, (open + kOpen - 1) / max(kOpen, 1)) : closed);
}

// What is dealt: the runs that are items as a whole, then units, or leaves, of the others.
template <typename Kind>
struct Deal {
  const int32_t* first_of;  // runs
  int runs, whole, chunks, slots, items;

  __device__ __forceinline__ Deal(const AttentionParams& p, const AttentionShape& shape) {
    const bool fine = p.header->fine != 0;
    first_of = Kind::kInclusive ? p.forward_runs : p.feedback_runs;
    runs = first_of[p.row_count];
    whole = fine ? 0 : p.header->whole_runs[Kind::kInclusive ? 1 : 0];
    chunks = Kind::kInclusive ? shape.forward_chunks : 1;
    slots = fine ? shape.warps : 1;
    items = (whole + (runs - whole) * kRunUnits * slots) * chunks;
  }
};

// What number `index` of what is dealt begins with; or, `ahead` > 0, what comes so many units after that.
template <typename Kind>
__device__ __forceinline__ AttentionItem FindItem(const AttentionParams& p, const AttentionShape& shape,
                                                  const Deal<Kind>& deal, int index, int ahead) {
  AttentionItem item;
  int run = index / deal.chunks, in_run = ahead, leaf = 0;
  item.chunk = index % deal.chunks;
  if (index >= deal.whole * deal.chunks) {
    const int rest = index - deal.whole * deal.chunks, unit = rest / deal.slots / deal.chunks;
    leaf = rest % deal.slots;
    item.chunk = rest / deal.slots % deal.chunks;
    run = deal.whole + unit / kRunUnits;
    in_run = unit % kRunUnits;
  }
  item.row = RowOf(deal.first_of, p.row_count, run);
  const RowMeta meta = p.rows[item.row];
  const int tokens = meta.position + (Kind::kInclusive ? 1 : 0), length = UnitTokens(tokens);
  item.position = meta.position;
  item.page_begin = meta.page_begin;
  item.open_page = meta.open_page;
  item.unit = (run - deal.first_of[item.row]) * kRunUnits + in_run;
  item.units = UnitsOf(tokens);
  item.whole_units = min(max(deal.whole - deal.first_of[item.row], 0) * kRunUnits, item.units);
  item.first = item.unit * length;
  item.end = min(tokens, item.first + length);
  const int own_block = meta.position / kBlockTokens * kBlockTokens;
  item.closed_end = Kind::kInclusive ? item.end : min(max(own_block, item.first), item.end);
  item.leaf_begin = leaf;
  item.leaf_end = deal.slots > 1 ? leaf + 1 : shape.warps;
  item.leaves = item.unit < item.units ? CountLeaves<Kind::kTokens, Kind::kOpenTokens>(item, shape.warps) : 0;
  const int before = Kind::kInclusive ? p.feedback_runs[p.row_count] * kRunUnits : 0;
  item.slot = (before + (run * kRunUnits + in_run) * deal.chunks + item.chunk) * deal.slots;
  item.slot_stride = deal.chunks * deal.slots;
  return item;
}

// The dealing warp: finds the engine's items, some ahead of their use.
template <typename Kind>
__device__ __forceinline__ void DealItems(const AttentionParams& p, const AttentionShape& shape,
                                          const Engine& engine, int first, int32_t* next_item) {
  const int lane = threadIdx.x & 31;
  const Deal<Kind> deal(p, shape);
  ItemQueue& queue = engine.control->queue;
  int index = first, ahead = 0, left = 1;  // units of the number last dealt
  for (int n = 0;; ++n) {
    const int entry = n % ItemQueue::kDepth;
    queue.empty[entry].Wait((n / ItemQueue::kDepth & 1) ^ 1);
    if (left == 0) {
      int dealt = 0;
      if (lane == 0) {
        dealt = atomicAdd(next_item, 1);              // in all, once for each item
        if (dealt == deal.items - 1) *next_item = 0;  // for the next launch
      }
      index = static_cast<int>(gridDim.x) + __shfl_sync(kWholeWarp, dealt, 0);
      ahead = 0;
    }
    AttentionItem item;
    item.row = -1;
    if (index < deal.items) {
      item = FindItem<Kind>(p, shape, deal, index, ahead);
      if (item.first + lane * kBlockTokens < item.end) {
        queue.pages[entry][lane] = p.pages[item.page_begin + item.first / kBlockTokens + lane];
      }
      ++ahead;
      left = item.InWholeRun() ? min(kRunUnits - ahead, item.units - item.unit - 1) : 0;
    }
    if (lane == 0) queue.items[entry] = item;
    queue.full[entry].ArriveAsWarp();
    if (item.row < 0) break;
  }
  PdlWait();
}

}  // namespace sessa::cuda
