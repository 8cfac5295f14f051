// The items of the attentions inside the few-rows kernel: each is a leaf, which a block of threads takes in
// stretches of up to 16 tokens, and how their state comes to shared memory.
#pragma once

#include "kernels/cuda/decode_feedback.cuh"
#include "kernels/cuda/decode_forward.cuh"
#include "kernels/cuda/few_rows_shared.cuh"

namespace sessa::cuda {

// Tokens between two raises of a leaf's maximum, as decode_feedback.cuh and decode_forward.cuh raise it.
template <int V>
inline constexpr int kClosedStep = Feedback<V>::kStep;
inline constexpr int kOpenStep = 1, kForwardStep = Forward<1>::kStep;

// Some of a leaf's tokens: `count` from its number `from` on, of those in the reader's own block ("open") or
// of the others.
struct Stretch {
  int item = 0;  // of the block's list
  int from = 0, count = 0;
  bool open = false;
  bool newest = false;  // ends with the row's own token (set where stretches are listed)
};

// Tokens of leaf `leaf` among `tokens` that go to `leaves` leaves in chunks.
__device__ __forceinline__ int LeafTokens(int tokens, int chunk, int leaves, int leaf) {
  const int row = chunk * leaves;
  return tokens / row * chunk + min(max(tokens % row - leaf * chunk, 0), chunk);
}
// The position of number `i` of them, from the first of all on.
__device__ __forceinline__ int LeafToken(int i, int chunk, int leaves, int leaf) {
  return (i / chunk * leaves + leaf) * chunk + i % chunk;
}
template <int V>
__device__ __forceinline__ int ChunkOf(const FewRowsItem& item, bool open) {
  return item.forward ? Forward<1>::kTokens : open ? Feedback<V>::kOpenTokens : Feedback<V>::kTokens;
}
template <int V>
__device__ __forceinline__ int TokenOf(const FewRowsItem& item, bool open, int i, int leaves) {
  return (open ? item.open_first : item.first) + LeafToken(i, ChunkOf<V>(item, open), leaves, item.leaf);
}

// Feedback items are dealt from the first block on, forward items from the last, so that who has fewer of one
// has more of the other. A thread finds an item.
template <int V>
__device__ __forceinline__ void ListItems(const FewRowsParams& p, const FewRowsPass& pass,
                                          FewRowsMemory<V>& m) {
  const int block = blockIdx.x, blocks = gridDim.x, chunks = p.attention.forward_chunks,
            leaves = p.attention.warps;
  const int feedback_items = m.feedback_first[pass.rows] * leaves;
  const int forward_items = m.forward_first[pass.rows] * chunks * leaves;
  const auto share = [&](int items, int first) { return (items - first + blocks - 1) / blocks; };
  const int feedback_share = share(feedback_items, block),
            forward_share = share(forward_items, blocks - 1 - block);
  const int turn = threadIdx.x;
  if (turn == 0) m.item_count = feedback_share + forward_share;
  if (turn >= feedback_share + forward_share) return;
  const bool forward = turn >= feedback_share;
  const int index = forward ? blocks - 1 - block + (turn - feedback_share) * blocks : block + turn * blocks;
  const int in_all = index / leaves, chunk = forward ? in_all % chunks : 0,
            unit = forward ? in_all / chunks : in_all;
  FewRowsItem item;
  item.index = forward ? feedback_items + index : index;
  item.leaf = index % leaves;
  item.forward = forward ? 1 : 0;
  item.first_column = static_cast<int16_t>(chunk % p.column_chunks * kFewColumns);
  item.first_head = static_cast<int16_t>(chunk / p.column_chunks * p.attention.group_heads);
  const int32_t* first_of = forward ? m.forward_first : m.feedback_first;
  int row = 0;
  while (first_of[row + 1] <= unit) ++row;
  const int position = m.rows[row].position, tokens = position + (forward ? 1 : 0),
            length = UnitTokens(tokens);
  item.row = static_cast<int16_t>(row);
  item.first = (unit - first_of[row]) * length;
  const int end = min(tokens, item.first + length);
  item.open_first = forward ? end : min(max(position / kBlockTokens * kBlockTokens, item.first), end);
  item.closed = LeafTokens(item.open_first - item.first, ChunkOf<V>(item, false), leaves, item.leaf);
  item.open = forward ? 0 : LeafTokens(end - item.open_first, ChunkOf<V>(item, true), leaves, item.leaf);
  m.items[turn] = item;
}

template <int V>
__device__ __forceinline__ Stretch StretchAt(const FewRowsMemory<V>& m, int item, bool open, int from) {
  const FewRowsItem& of = m.items[item];
  return {item, from, open ? min(of.open - from, kOpenStretch) : min(of.closed - from, kStretch), open};
}
// The first of an item: it may be empty.
template <int V>
__device__ __forceinline__ Stretch FirstStretch(const FewRowsMemory<V>& m, int item = 0) {
  if (item >= m.item_count) return {item};
  return StretchAt(m, item, m.items[item].closed == 0, 0);
}
template <int V>
__device__ __forceinline__ bool EndsItem(const FewRowsMemory<V>& m, const Stretch& at) {
  const FewRowsItem& item = m.items[at.item];
  return at.open ? at.from + at.count == item.open : at.from + at.count == item.closed && item.open == 0;
}
template <int V>
__device__ __forceinline__ Stretch NextStretch(const FewRowsMemory<V>& m, const Stretch& last) {
  if (last.item >= m.item_count) return last;
  if (EndsItem(m, last)) return FirstStretch(m, last.item + 1);
  const int next = last.from + last.count;
  const bool turns = !last.open && next == m.items[last.item].closed;
  return StretchAt(m, last.item, last.open || turns, turns ? 0 : next);
}

// In one word, to be listed in shared memory.
__device__ __forceinline__ uint32_t PackStretch(const Stretch& at) {
  return static_cast<uint32_t>(at.item << 24 | at.from << 8 | (at.newest ? 1 : 0) << 7 | at.count << 1 |
                               (at.open ? 1 : 0));
}
__device__ __forceinline__ Stretch UnpackStretch(uint32_t packed) {
  return {static_cast<int>(packed >> 24), static_cast<int>(packed >> 8 & 0xffff),
          static_cast<int>(packed >> 1 & 0x3f), (packed & 1) != 0, (packed >> 7 & 1) != 0};
}

// Whether a stretch ends with the row's own token, whose k and v may not be in its page yet.
template <int V>
__device__ __forceinline__ bool EndsWithNewest(const FewRowsParams& p, const FewRowsMemory<V>& m,
                                               const Stretch& at) {
  const FewRowsItem& item = m.items[at.item];
  return item.forward && at.count > 0 &&
         TokenOf<V>(item, false, at.from + at.count - 1, p.attention.warps) == m.rows[item.row].position;
}

// All of the block's stretches. One thread.
template <int V>
__device__ __forceinline__ void ListStretches(const FewRowsParams& p, FewRowsMemory<V>& m) {
  m.stretch_count = 0;
#pragma unroll 1
  for (Stretch at = FirstStretch(m); at.item < m.item_count; at = NextStretch(m, at)) {
    if (m.stretch_count == kMaxStretches) __trap();
    at.newest = EndsWithNewest(p, m, at);
    m.stretches[m.stretch_count++] = PackStretch(at);
  }
}

// One warp: starts copying a stretch's state to shared memory, a lane a token of kb or s (float32 in the
// reader's own block), or of k or v. Nothing if there is no such stretch; not the newest k and v.
template <int V>
__device__ __noinline__ void CopyStretch(const FewRowsParams& p, const LayerState& state, const Stretch at,
                                         int slot, FewRowsMemory<V>& m) {
  if (at.item >= m.item_count) return;
  const FewRowsItem& item = m.items[at.item];
  const RowMeta& meta = m.rows[item.row];
  const int lane = threadIdx.x % 32, plane = lane / 16, number = lane % 16;
  const int count = at.count - (at.newest ? 1 : 0);
  const int token = TokenOf<V>(item, at.open, at.from + number, p.attention.warps);
  int bytes = state.width * 2, row_bytes = bytes, total = 2 * bytes;
  int pitch = FewRowsMemory<V>::kRowBytes, value_pitch = pitch;  // in shared memory
  if (item.forward) {
    bytes = min(kFewColumns, state.kv - item.first_column) * 2;
    total = 2 * bytes;
    row_bytes = state.kv * 2;
    pitch = value_pitch = kFewColumns * 2;
  } else if (at.open) {
    total = 3 * bytes;
    value_pitch *= 2;
    if (plane == 1) row_bytes = bytes *= 2;
  }
  if (lane == 0) ExpectBytes(&m.arrived[slot], count * total);
  __syncwarp();
  if (number < count) {
    const int64_t page = p.tables.pages[meta.page_begin + (token >> 6)];
    const char* from = state.pages + page * state.page_bytes;
    if (item.forward) {
      from += (plane == 0 ? state.k : state.v) + item.first_column * 2;
    } else if (plane == 0) {
      from += state.kb;
    } else if (!at.open) {
      from += state.s;
    } else {
      from = state.open_pages + meta.open_page * state.open_page_bytes + state.open_s;
    }
    char* to = m.ring[slot] + plane * (at.open ? kOpenStretch : kStretch) * pitch +
               number * (plane == 0 ? pitch : value_pitch);
    CopyBytes<false>(to, from + static_cast<int64_t>(token & 63) * row_bytes, bytes, &m.arrived[slot]);
  }
  EndCopies(&m.arrived[slot]);
}

}  // namespace sessa::cuda
