// The attentions inside the few-rows kernel. A block of threads takes an item at a time and works together on
// stretches of up to 16 tokens: its warps score two tokens each, then each thread adds up four columns over
// the tokens. Per score and per column these are the operations of decode_attention.cu in the same order.
#pragma once

#include "kernels/cuda/decode_feedback.cuh"
#include "kernels/cuda/decode_forward.cuh"
#include "kernels/cuda/few_rows_shared.cuh"

namespace sessa::cuda {

// Tokens between two raises of a leaf's maximum, as decode_feedback.cuh and decode_forward.cuh raise it.
template <int V>
inline constexpr int kClosedStep = Feedback<V>::kTokens < 4 ? Feedback<V>::kTokens : 4;
inline constexpr int kOpenStep = 1, kForwardStep = Forward<1>::kTokens;

// Some of a leaf's tokens: `count` from its number `from` on, of those in the reader's own block ("open") or
// of the others.
struct Stretch {
  int item = 0;  // of the block's list
  int from = 0, count = 0;
  bool open = false;
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

// One warp: starts copying a stretch's state to shared memory, a lane a token of kb or s (float32 in the
// reader's own block), or of k or v. Nothing if there is no such stretch.
template <int V>
__device__ __noinline__ void CopyStretch(const FewRowsParams& p, const LayerState& state, const Stretch at,
                                         int slot, FewRowsMemory<V>& m) {
  if (at.item >= m.item_count) return;
  const FewRowsItem& item = m.items[at.item];
  const RowMeta& meta = m.rows[item.row];
  const int lane = threadIdx.x % 32, plane = lane / 16, number = lane % 16;
  const int token = TokenOf<V>(item, at.open, at.from + min(number, max(at.count - 1, 0)), p.attention.warps);
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
  if (lane == 0) ExpectBytes(&m.arrived[slot], at.count * total);
  __syncwarp();
  if (number >= at.count) return;
  const int64_t page = p.pages[meta.page_begin + (token >> 6)];
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
  CopyBytes(to, from + static_cast<int64_t>(token & 63) * row_bytes, bytes, &m.arrived[slot]);
}

// The row's query as an item uses it. Forward: q of the whole row.
__device__ __forceinline__ void AwaitQuery(const FewRowsParams& p, const FewRowsItem& item, uint32_t epoch,
                                           AttentionMemory& memory) {
  const int at = 4 * threadIdx.x, width = p.width;
  const bool forward = item.forward != 0;
  const float scale = kLog2E * rsqrtf(static_cast<float>(forward ? p.head_width : width));
  const Word* words = p.mail.y + item.row * p.y_pitch + (forward ? 0 : width + 2 * p.kv);
  uint32_t numbers[4];
  AwaitPairs<2>(
      epoch, [&](int i) { return at < width ? words + at + 2 * i : nullptr; }, numbers);
  *reinterpret_cast<float4*>(&memory.query[at]) =
      make_float4(__uint_as_float(numbers[0]) * scale, __uint_as_float(numbers[1]) * scale,
                  __uint_as_float(numbers[2]) * scale, __uint_as_float(numbers[3]) * scale);
}

// The newest token's k and v may not have been in its page yet: takes them from where they were made.
__device__ __forceinline__ void AwaitNewest(const FewRowsParams& p, const FewRowsItem& item, uint32_t epoch,
                                            int token, char* slot) {
  const int kv = p.kv, column = item.first_column + threadIdx.x;
  const Word* words = p.mail.y + item.row * p.y_pitch + p.width + column;
  uint32_t numbers[2];
  Await<2>(
      epoch, [&](int i) { return column < kv ? words + i * kv : nullptr; }, numbers);
  bf16* k = reinterpret_cast<bf16*>(slot) + token * kFewColumns + threadIdx.x;
  k[0] = __float2bfloat16_rn(__uint_as_float(numbers[0]));
  k[kStretch * kFewColumns] = __float2bfloat16_rn(__uint_as_float(numbers[1]));
  FenceCopies();
}

// qb . kb of two tokens a warp.
template <int V>
__device__ __forceinline__ void ScoreFeedback(const FewRowsParams& p, const char* slot,
                                              AttentionMemory& memory) {
  const int lane = threadIdx.x & 31, token = threadIdx.x / 32 * 2;
  float even[2] = {}, odd[2] = {};
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int column = (i * 32 + lane) * 8;
    if (column >= p.width) continue;
    float q[8];
    Load8(&memory.query[column], q);
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      float numbers[8];
      UnpackBf16(reinterpret_cast<const uint4*>(slot)[(token + u) * V * 32 + i * 32 + lane], numbers);
#pragma unroll
      for (int e = 0; e < 8; e += 2) {
        even[u] = fmaf(numbers[e], q[e], even[u]);
        odd[u] = fmaf(numbers[e + 1], q[e + 1], odd[u]);
      }
    }
  }
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    const float score = SumWarp(even[u] + odd[u]);
    if (lane == 0) memory.scores[0][token + u] = score;
  }
}

// q . k of two tokens a warp: a lane has 8 columns of k, for up to GC query heads.
template <int GC>
__device__ __forceinline__ void ScoreForward(const FewRowsParams& p, const FewRowsItem& item,
                                             const char* slot, AttentionMemory& memory) {
  const int lane = threadIdx.x & 31, token = threadIdx.x / 32 * 2, shift = p.head_shift;
  const int column = item.first_column + lane * 8, in_head = column & (p.head_width - 1);
  const int first = (((column >> shift) * p.group + item.first_head) << shift) + in_head;  // of the query
  float k[2][8], score[GC][2] = {};
#pragma unroll
  for (int u = 0; u < 2; ++u) UnpackBf16(reinterpret_cast<const uint4*>(slot)[(token + u) * 32 + lane], k[u]);
#pragma unroll
  for (int g = 0; g < GC; ++g) {
    if (column >= p.kv || item.first_head + g >= p.group) continue;
    float q[8];
    Load8(&memory.query[first + (g << shift)], q);
#pragma unroll
    for (int u = 0; u < 2; ++u) {
#pragma unroll
      for (int e = 0; e < 8; ++e) score[g][u] = fmaf(k[u][e], q[e], score[g][u]);
    }
  }
#pragma unroll 1
  for (int offset = p.head_width / 16; offset > 0; offset >>= 1) {
#pragma unroll
    for (int g = 0; g < GC; ++g) {
#pragma unroll
      for (int u = 0; u < 2; ++u) score[g][u] += __shfl_xor_sync(kWholeWarp, score[g][u], offset);
    }
  }
  if (lane * 8 & (p.head_width - 1)) return;
#pragma unroll
  for (int g = 0; g < GC; ++g) {
    *reinterpret_cast<float2*>(&memory.scores[(g * kFewColumns + lane * 8) >> shift][token]) =
        make_float2(score[g][0], score[g][1]);
  }
}

// The softmax's weights of a stretch for `heads` heads, the maximum raised after every `step` tokens. A lane
// takes a token of one head.
__device__ __forceinline__ void WeighStretch(bool opens_leaf, int heads, int step, int tokens,
                                             AttentionMemory& memory) {
  const int token = threadIdx.x % 16;
#pragma unroll 1
  for (int first = threadIdx.x / 32 * 2; first < heads; first += 2 * kStrands) {
    const int head = min(first + static_cast<int>(threadIdx.x & 31) / 16, heads - 1);
    const float score = token < tokens ? memory.scores[head][token] : kNoMaximum;
    const float carried = opens_leaf ? kNoMaximum : memory.max[head];
    float max = fmaxf(score, carried);  // so far, then of whole steps
#pragma unroll
    for (int offset = 1; offset < 16; offset <<= 1) {
      const float before = __shfl_up_sync(kWholeWarp, max, offset, 16);
      if (token >= offset) max = fmaxf(max, before);
    }
    const float last = __shfl_sync(kWholeWarp, max, token - token % step - 1, 16);  // of the step before
    max = __shfl_sync(kWholeWarp, max, token | (step - 1), 16);
    const float factor = token % step == 0 ? Exp2((token == 0 ? carried : last) - max) : 1.0f;
    const float weight = token < tokens ? Exp2(score - max) : 0.0f;
    memory.weights[head][token] = make_float2(factor, weight);
    if (token == 15) memory.max[head] = max;
  }
}

// A thread's four columns of an accumulator, and the maximum and the sum of their head.
struct Columns {
  float acc[4], max, sum;
};

// Adds a stretch to a leaf; values(token, numbers) gives this thread's columns of a token.
template <typename Values>
__device__ __forceinline__ void AddStretch(bool opens_leaf, int tokens, int head,
                                           const AttentionMemory& memory, const Values& values,
                                           Columns& leaf) {
  if (opens_leaf) leaf = {};
  leaf.max = memory.max[head];
#pragma unroll 4
  for (int token = 0; token < tokens; ++token) {
    const float2 weight = memory.weights[head][token];
    float numbers[4];
    values(token, numbers);
    leaf.sum = __fadd_rn(__fmul_rn(leaf.sum, weight.x), weight.y);
#pragma unroll
    for (int e = 0; e < 4; ++e)
      leaf.acc[e] = __fmaf_rn(weight.y, numbers[e], __fmul_rn(leaf.acc[e], weight.x));
  }
}

__device__ __forceinline__ void Unpack4(const uint2& bits, bool half, float (&out)[4]) {
  const uint32_t words[2] = {bits.x, bits.y};
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    if (half) {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[e]));
      out[2 * e] = pair.x;
      out[2 * e + 1] = pair.y;
    } else {
      out[2 * e] = __uint_as_float(words[e] << 16);
      out[2 * e + 1] = __uint_as_float(words[e] & 0xffff0000u);
    }
  }
}

// One stretch, whose state has arrived in `slot`. Threads with columns of the result keep them in `leaf`.
template <int V, int GC>
__device__ __forceinline__ void AttendStretch(const FewRowsParams& p, const FewRowsItem& item,
                                              const Stretch& at, const char* slot, AttentionMemory& memory,
                                              Columns& leaf) {
  const int column = 4 * threadIdx.x, tokens = at.count;
  const bool forward = item.forward != 0, open = at.open,
             opens_leaf = at.from == 0 && (!open || item.closed == 0);
  if (forward) {
    ScoreForward<GC>(p, item, slot, memory);
  } else {
    ScoreFeedback<V>(p, slot, memory);
  }
  __syncthreads();
  WeighStretch(opens_leaf, forward ? (GC * kFewColumns) >> p.head_shift : 1,
               forward ? kForwardStep
               : open  ? kOpenStep
                       : kClosedStep<V>,
               tokens, memory);
  __syncthreads();
  constexpr int kRowBytes = FewRowsMemory<V>::kRowBytes;
  if (forward) {
    if (column >= GC * kFewColumns) return;
    const char* v = slot + kStretch * kFewColumns * 2 + column % kFewColumns * 2;
    AddStretch(
        opens_leaf, tokens, column >> p.head_shift, memory,
        [&](int token, float(&out)[4]) {
          Unpack4(*reinterpret_cast<const uint2*>(v + token * kFewColumns * 2), false, out);
        },
        leaf);
    return;
  }
  if (column >= p.width) return;
  if (open) {
    const char* s = slot + kOpenStretch * kRowBytes + column * 4;
    AddStretch(
        opens_leaf, tokens, 0, memory,
        [&](int token, float(&out)[4]) {
          const float4 four = *reinterpret_cast<const float4*>(s + token * 2 * kRowBytes);
          out[0] = four.x, out[1] = four.y, out[2] = four.z, out[3] = four.w;
        },
        leaf);
  } else {
    const char* s = slot + kStretch * kRowBytes + column * 2;
    AddStretch(
        opens_leaf, tokens, 0, memory,
        [&](int token, float(&out)[4]) {
          Unpack4(*reinterpret_cast<const uint2*>(s + token * kRowBytes), true, out);
        },
        leaf);
  }
}

// Hands out a finished item: accumulator, then maximum and sum of each head.
template <int GC>
__device__ __forceinline__ void PostItem(const FewRowsParams& p, const FewRowsItem& item, uint32_t epoch,
                                         const Columns& run) {
  const bool forward = item.forward != 0;
  const int column = 4 * threadIdx.x, columns = forward ? GC * kFewColumns : p.width;
  if (column >= columns) return;
  Word* words = p.mail.parts + item.index * p.attention.partial_floats;
  PostPair(words + column, __float_as_uint(run.acc[0]), __float_as_uint(run.acc[1]), epoch);
  PostPair(words + column + 2, __float_as_uint(run.acc[2]), __float_as_uint(run.acc[3]), epoch);
  const int head = forward ? column >> p.head_shift : 0;
  if (forward ? (column & (p.head_width - 1)) == 0 : column == 0) {
    PostPair(words + columns + 2 * head, __float_as_uint(run.max), __float_as_uint(run.sum), epoch);
  }
}

}  // namespace sessa::cuda
