// Feedback attention of decode rows, one query as wide as the model:
//   ctx = sum_{j<t} softmax_j(qb . kb_j D^-1/2) s_j
// A lane owns columns (i * 32 + lane) * 8 .. + 7, i < V, of a token.
#pragma once

#include "kernels/cuda/decode_items.cuh"
#include "kernels/cuda/decode_softmax.cuh"

namespace sessa::cuda {

template <int V>
struct Feedback {
  static constexpr bool kInclusive = false;                // the strict past
  static constexpr int kTokens = V < 8 ? 16 / V : 1;       // of a slot: up to 8 KB of kb and 8 KB of s
  static constexpr int kOpenTokens = (kTokens + 1) / 2;    // in the reader's own block, where s is float32
  static constexpr int kStep = kTokens < 2 ? kTokens : 2;  // tokens that are added together
  static constexpr int kValues = kTokens * V * 512;        // byte of a slot where s begins
  static constexpr int kSlotBytes = kValues + kOpenTokens * V * 1024;

  static __device__ __forceinline__ int Columns(const AttentionParams& p) { return p.state.width; }
  static __device__ __forceinline__ int HeadColumns(const AttentionParams& p) { return p.state.width; }

  // The first of this lane's columns in vector i.
  static __device__ __forceinline__ int Column(int i) {
    return (i * 32 + static_cast<int>(threadIdx.x & 31)) * 8;
  }

  // Rows of kb and s of `count` tokens from `token` on, which lie in the block of `page`.
  static __device__ __forceinline__ void Copy(const AttentionParams& p, const AttentionItem& item,
                                              int64_t page, int token, int count, bool open, char* slot,
                                              CopyBarrier* full) {
    const int width = p.state.width, in_block = token & 63;
    const char* state = p.state.pages + page * p.state.page_bytes;
    const char* values = open ? p.state.open_pages + item.open_page * p.state.open_page_bytes + p.state.open_s
                              : state + p.state.s;
    const int keys_bytes = width * 2, values_bytes = open ? width * 4 : width * 2;
    SlotFill fill(full, count * (keys_bytes + values_bytes));
    fill.Copy(slot, state + p.state.kb + in_block * keys_bytes, count * keys_bytes);
    fill.Copy(slot + kValues, values + in_block * values_bytes, count * values_bytes);
    fill.End();
  }

  // Adds a slot's first `count` tokens, U at a time. Small code matters here: the loops of both attentions
  // share a cache of instructions.
  template <int U, bool kOpen>
  static __device__ __forceinline__ void AddTokens(const float (&q)[V * 8], const char* slot, int width,
                                                   int count, Softmax<V * 8>& leaf) {
    constexpr int kBytes = kOpen ? 4 : 2;  // of a number of s
    // Lanes beyond the last column read column 0, with q = 0. Of a row's vectors at least half are whole.
    const auto column = [&](int i) { return i < V / 2 || Column(i) < width ? Column(i) : 0; };
#pragma unroll 1
    for (int first = 0; first < count; first += U) {
      float score[U];
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const char* row = slot + min(first + u, count - 1) * width * 2;
        float even = 0.0f, odd = 0.0f;  // two chains
#pragma unroll
        for (int i = 0; i < V; ++i) {
          float numbers[8];
          UnpackBf16(*reinterpret_cast<const uint4*>(row + column(i) * 2), numbers);
#pragma unroll
          for (int e = 0; e < 8; e += 2) {
            even = fmaf(numbers[e], q[i * 8 + e], even);
            odd = fmaf(numbers[e + 1], q[i * 8 + e + 1], odd);
          }
        }
        score[u] = even + odd;
      }
#pragma unroll
      for (int offset = 16; offset > 0; offset >>= 1) {
#pragma unroll
        for (int u = 0; u < U; ++u) score[u] += __shfl_xor_sync(kWholeWarp, score[u], offset);
      }
      float max = leaf.max;
#pragma unroll
      for (int u = 0; u < U; ++u) max = fmaxf(max, score[u]);  // beyond the end: the last token's, again
      if (max > leaf.max) leaf.Raise(max);
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const float weight = first + u < count ? Exp2(score[u] - leaf.max) : 0.0f;
        leaf.sum += weight;
        const char* row = slot + kValues + min(first + u, count - 1) * width * kBytes;
#pragma unroll
        for (int i = 0; i < V; ++i) {
          float numbers[8];
          if constexpr (kOpen) {
            Load8(reinterpret_cast<const float*>(row) + column(i), numbers);
          } else {
            UnpackFp16(*reinterpret_cast<const uint4*>(row + column(i) * 2), numbers);
          }
#pragma unroll
          for (int e = 0; e < 8; ++e) leaf.acc[i * 8 + e] = fmaf(weight, numbers[e], leaf.acc[i * 8 + e]);
        }
      }
    }
  }

  // Computes leaf `leaf` of the item's unit and leaves it in place `at` of the engine's leaves, once what was
  // there is merged. `n`: items of the engine before this one.
  static __device__ __forceinline__ void Leaf(const AttentionParams& p, const Engine& engine,
                                              const AttentionItem& item, int n, int leaf, int at, int step,
                                              RingPlace& place) {
    const int lane = threadIdx.x & 31, width = p.state.width;
    const float scale = kLog2E * rsqrtf(static_cast<float>(width));
    float q[V * 8];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int column = Column(i);
      float numbers[8] = {};
      if (column < width) Load8(p.qb + static_cast<int64_t>(item.row) * width + column, numbers);
#pragma unroll
      for (int e = 0; e < 8; ++e) q[i * 8 + e] = numbers[e] * scale;
    }
    Softmax<V * 8> sum;
    sum.Reset();
    ForChunkRows<kTokens, kOpenTokens>(item, engine.warps, [&](int first, int end, bool open) {
      const int count = end - (first + leaf * (open ? kOpenTokens : kTokens));
      if (count > 0) {
        const char* slot = engine.ring + place.slot * kSlotBytes;
        engine.control->full[place.slot].Wait(place.Use());
        if (open) {
          AddTokens<1, true>(q, slot, width, min(count, kOpenTokens), sum);
        } else {
          AddTokens<kStep, false>(q, slot, width, min(count, kTokens), sum);
        }
        engine.control->empty[place.slot].ArriveAsWarp();
      }
      place.Advance(step, engine.slots);
    });
    engine.control->handover.AwaitEmpty(n);
    float* to = engine.leaves + at * width;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int column = Column(i);
      if (column < width) Store8(to + column, sum.acc + i * 8);
    }
    if (lane == 0) engine.leaf_sums[at] = make_float2(sum.max, sum.sum);
  }

  // Four numbers of the result, from `column` on.
  static __device__ __forceinline__ void Output(const AttentionParams& p, const AttentionItem& item,
                                                int column, float4 value) {
    *reinterpret_cast<float4*>(p.ctx + static_cast<int64_t>(item.row) * p.state.width + column) = value;
  }
};

}  // namespace sessa::cuda
