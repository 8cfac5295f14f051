// The attentions inside the few-rows kernel. A block of threads takes an item at a time and works together on
// stretches of up to 16 tokens: its warps score two tokens each, then each thread adds up four columns over
// the tokens. Per score and per column these are the operations of decode_attention.cu in the same order.
#pragma once

#include "kernels/cuda/few_rows_items.cuh"

namespace sessa::cuda {

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
  *reinterpret_cast<float4*>(&memory.query[at / 4 % 2][at / 8 * 4]) =
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

// The part of an item's query that a lane multiplies by: of the feedback columns (32 i + lane) 8 and the next
// seven, of the forward attention those that meet its columns of k, of up to GC query heads.
struct OwnQuery {
  float parts[4][8];
};
__device__ __forceinline__ void LoadQuery(const AttentionMemory& memory, int column, float (&q)[8]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 four = *reinterpret_cast<const float4*>(&memory.query[half][column / 2]);
    q[4 * half] = four.x, q[4 * half + 1] = four.y, q[4 * half + 2] = four.z, q[4 * half + 3] = four.w;
  }
}
template <int V, int GC>
__device__ __forceinline__ void LoadQuery(const FewRowsParams& p, const FewRowsItem& item,
                                          const AttentionMemory& memory, OwnQuery& query) {
  const int lane = threadIdx.x & 31, shift = p.head_shift;
  if (item.forward) {
    const int column = item.first_column + lane * 8, in_head = column & (p.head_width - 1);
    const int first = (((column >> shift) * p.group + item.first_head) << shift) + in_head;
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      if (column < p.kv && item.first_head + g < p.group)
        LoadQuery(memory, first + (g << shift), query.parts[g]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if ((i * 32 + lane) * 8 < p.width) LoadQuery(memory, (i * 32 + lane) * 8, query.parts[i]);
    }
  }
}

// qb . kb of two tokens a warp.
template <int V>
__device__ __forceinline__ void ScoreFeedback(const FewRowsParams& p, const char* slot, const OwnQuery& query,
                                              AttentionMemory& memory) {
  const int lane = threadIdx.x & 31, token = threadIdx.x / 32 * 2;
  float even[2] = {}, odd[2] = {};
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int column = (i * 32 + lane) * 8;
    if (column >= p.width) continue;
    const float(&q)[8] = query.parts[i];
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
                                             const char* slot, const OwnQuery& query,
                                             AttentionMemory& memory) {
  const int lane = threadIdx.x & 31, token = threadIdx.x / 32 * 2, shift = p.head_shift;
  const int column = item.first_column + lane * 8;
  float k[2][8], score[GC][2] = {};
#pragma unroll
  for (int u = 0; u < 2; ++u) UnpackBf16(reinterpret_cast<const uint4*>(slot)[(token + u) * 32 + lane], k[u]);
#pragma unroll
  for (int g = 0; g < GC; ++g) {
    if (column >= p.kv || item.first_head + g >= p.group) continue;
    const float(&q)[8] = query.parts[g];
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
    __syncwarp();  // all have read what was carried
    if (token == 15) memory.max[head] = max;
  }
}

// A thread's four columns of an accumulator, and the maximum and the sum of their head.
struct Columns {
  float acc[4], max, sum;
};

// Adds a stretch to a leaf; values(token, numbers) gives this thread's columns of a token. What was added
// before changes by a factor every kStep tokens only; in between it is 1.
template <int kStep, typename Values>
__device__ __forceinline__ void AddStretch(bool opens_leaf, int tokens, int head,
                                           const AttentionMemory& memory, const Values& values,
                                           Columns& leaf) {
  if (opens_leaf) leaf = {};
  leaf.max = memory.max[head];
  const auto add = [&](int token) {
    const float weight = memory.weights[head][token].y;
    float numbers[4];
    values(token, numbers);
    leaf.sum = __fadd_rn(leaf.sum, weight);
#pragma unroll
    for (int e = 0; e < 4; ++e) leaf.acc[e] = __fmaf_rn(weight, numbers[e], leaf.acc[e]);
  };
#pragma unroll 1
  for (int first = 0; first < tokens; first += kStep) {
    const float factor = memory.weights[head][first].x;
    leaf.sum = __fmul_rn(leaf.sum, factor);
#pragma unroll
    for (int e = 0; e < 4; ++e) leaf.acc[e] = __fmul_rn(leaf.acc[e], factor);
    if (first + kStep <= tokens) {
#pragma unroll
      for (int u = 0; u < kStep; ++u) add(first + u);
    } else {
#pragma unroll 1
      for (int token = first; token < tokens; ++token) add(token);
    }
  }
}

// One stretch, whose state has arrived in `slot`. The item's query is in `memory`, from its first stretch on
// in `query`. Threads with columns of the result keep them in `leaf`.
template <int V, int GC>
__device__ __forceinline__ void AttendStretch(const FewRowsParams& p, const FewRowsItem& item,
                                              const Stretch& at, const char* slot, AttentionMemory& memory,
                                              OwnQuery& query, Columns& leaf) {
  const int column = 4 * threadIdx.x, tokens = at.count;
  const bool forward = item.forward != 0, open = at.open,
             opens_leaf = at.from == 0 && (!open || item.closed == 0);
  if (opens_leaf) LoadQuery<V, GC>(p, item, memory, query);
  if (forward) {
    ScoreForward<GC>(p, item, slot, query, memory);
  } else {
    ScoreFeedback<V>(p, slot, query, memory);
  }
  SyncComputing();
  WeighStretch(opens_leaf, forward ? (GC * kFewColumns) >> p.head_shift : 1,
               forward ? kForwardStep
               : open  ? kOpenStep
                       : kClosedStep<V>,
               tokens, memory);
  SyncComputing();
  constexpr int kRowBytes = FewRowsMemory<V>::kRowBytes;
  if (forward) {
    if (column >= GC * kFewColumns) return;
    const char* v = slot + kStretch * kFewColumns * 2 + column % kFewColumns * 2;
    AddStretch<kForwardStep>(
        opens_leaf, tokens, column >> p.head_shift, memory,
        [&](int token, float(&out)[4]) {
          UnpackBf16(*reinterpret_cast<const uint2*>(v + token * kFewColumns * 2), out);
        },
        leaf);
    return;
  }
  if (column >= p.width) return;
  if (open) {
    const char* s = slot + kOpenStretch * kRowBytes + column * 4;
    AddStretch<kOpenStep>(
        opens_leaf, tokens, 0, memory,
        [&](int token, float(&out)[4]) {
          const float4 four = *reinterpret_cast<const float4*>(s + token * 2 * kRowBytes);
          out[0] = four.x, out[1] = four.y, out[2] = four.z, out[3] = four.w;
        },
        leaf);
  } else {
    const char* s = slot + kStretch * kRowBytes + column * 2;
    AddStretch<kClosedStep<V>>(
        opens_leaf, tokens, 0, memory,
        [&](int token, float(&out)[4]) {
          UnpackFp16(*reinterpret_cast<const uint2*>(s + token * kRowBytes), out);
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
