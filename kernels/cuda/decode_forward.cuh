// Forward attention of decode rows:
//   o_h = sum_{j<=t} softmax_j(q_h . k_j,h' d^-1/2) v_j,h'
// An item covers 256 columns of k and v, of one or several key heads. A lane owns 8 of them and, for each of
// up to GC query heads of its key head, an accumulator: column c of the item's accumulator belongs to query
// head c / 256 of its pass and to column c % 256 of k and v.
#pragma once

#include "kernels/cuda/decode_items.cuh"
#include "kernels/cuda/decode_softmax.cuh"

namespace sessa::cuda {

inline constexpr int kForwardColumns = 256;

// U: tokens that are added together.
template <int GC, int U = 4>
struct Forward {
  static constexpr bool kInclusive = true;  // a row's own token, too
  static constexpr int kTokens = 8;         // of a slot: up to 4 KB of k and 4 KB of v
  static constexpr int kStep = U;
  static constexpr int kOpenTokens = 0;
  static constexpr int kValues = 4096;  // byte of a slot where v begins
  static constexpr int kSlotBytes = 8192;

  static __device__ __forceinline__ int Columns(const AttentionParams&) { return GC * kForwardColumns; }
  static __device__ __forceinline__ int HeadColumns(const AttentionParams& p) { return p.head_width; }
  static __device__ __forceinline__ int ColumnChunks(const AttentionParams& p) {
    return (p.state.kv + kForwardColumns - 1) / kForwardColumns;
  }

  // The item's columns of k and v of `count` tokens from `token` on, which lie in the block of `page`.
  static __device__ __forceinline__ void Copy(const AttentionParams& p, const AttentionItem& item,
                                              int64_t page, int token, int count, bool, char* slot,
                                              CopyBarrier* full) {
    const int kv = p.state.kv, first_column = item.chunk % ColumnChunks(p) * kForwardColumns;
    const char* keys = p.state.pages + page * p.state.page_bytes + p.state.k +
                       (static_cast<int64_t>(token & 63) * kv + first_column) * 2;
    const char* values = keys + (p.state.v - p.state.k);
    const int bytes = min(kForwardColumns, kv - first_column) * 2;
    SlotFill fill(full, 2 * count * bytes);
    if (kv <= kForwardColumns) {
      fill.Copy(slot, keys, count * bytes);
      fill.Copy(slot + kValues, values, count * bytes);
    } else {
      for (int u = 0; u < count; ++u) {
        fill.Copy(slot + u * kForwardColumns * 2, keys + u * kv * 2, bytes);
        fill.Copy(slot + kValues + u * kForwardColumns * 2, values + u * kv * 2, bytes);
      }
    }
    fill.End();
  }

  // Adds a slot's `count` tokens, U at a time. `pitch`: bytes from a token to the next. Lanes beyond the last
  // column compute nonsense for heads of their own, which nobody reads.
  static __device__ __forceinline__ void AddTokens(const float (&q)[GC][8], const char* slot, int pitch,
                                                   int d, int count, Softmax<8> (&leaf)[GC]) {
#pragma unroll 1
    for (int first = 0; first < count; first += U) {
      const auto load = [&](int u, const char* from, float(&out)[8]) {
        const char* at = from + min(first + u, count - 1) * pitch + (threadIdx.x & 31) * 16;
        UnpackBf16(*reinterpret_cast<const uint4*>(at), out);
      };
      float score[U][GC];
#pragma unroll
      for (int u = 0; u < U; ++u) {
        float numbers[8];
        load(u, slot, numbers);
#pragma unroll
        for (int g = 0; g < GC; ++g) {
          score[u][g] = 0.0f;
#pragma unroll
          for (int e = 0; e < 8; ++e) score[u][g] = fmaf(numbers[e], q[g][e], score[u][g]);
        }
      }
#pragma unroll
      for (int offset = 16; offset > 0; offset >>= 1) {  // over the d / 8 lanes of a head
        if (offset * 16 > d) continue;
#pragma unroll
        for (int u = 0; u < U; ++u) {
#pragma unroll
          for (int g = 0; g < GC; ++g) score[u][g] += __shfl_xor_sync(kWholeWarp, score[u][g], offset);
        }
      }
      float max[GC];
      bool raises = false;
#pragma unroll
      for (int g = 0; g < GC; ++g) {
        max[g] = leaf[g].max;
#pragma unroll
        for (int u = 0; u < U; ++u) max[g] = fmaxf(max[g], score[u][g]);
        raises = raises || max[g] > leaf[g].max;
      }
      if (__any_sync(kWholeWarp, raises)) {
#pragma unroll
        for (int g = 0; g < GC; ++g) leaf[g].Raise(max[g]);
      }
#pragma unroll
      for (int u = 0; u < U; ++u) {
        float numbers[8];
        load(u, slot + kValues, numbers);
#pragma unroll
        for (int g = 0; g < GC; ++g) {
          const float weight = first + u < count ? Exp2(score[u][g] - leaf[g].max) : 0.0f;
          leaf[g].sum += weight;
#pragma unroll
          for (int e = 0; e < 8; ++e) leaf[g].acc[e] = fmaf(weight, numbers[e], leaf[g].acc[e]);
        }
      }
    }
  }

  // Computes leaf `leaf` of the item's unit and leaves it in place `at` of the engine's leaves, once what was
  // there is merged. `n`: items of the engine before this one.
  static __device__ __forceinline__ void Leaf(const AttentionParams& p, const Engine& engine,
                                              const AttentionItem& item, int n, int leaf, int at, int step,
                                              RingPlace& place) {
    const int lane = threadIdx.x & 31, d = p.head_width, kv = p.state.kv, group = p.heads / p.kv_heads;
    const int column = item.chunk % ColumnChunks(p) * kForwardColumns + lane * 8;
    const int first_head = item.chunk / ColumnChunks(p) * GC;  // of the key head's group
    const bool inside = column < kv;
    const float scale = kLog2E * rsqrtf(static_cast<float>(d));
    float q[GC][8];
    Softmax<8> sums[GC];
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      float numbers[8] = {};
      if (inside && first_head + g < group) {
        const int64_t head = static_cast<int64_t>(column / d) * group + first_head + g;
        Load8(p.q + static_cast<int64_t>(item.row) * p.state.width + head * d + column % d, numbers);
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) q[g][e] = numbers[e] * scale;
      sums[g].Reset();
    }
    const int pitch = min(kv, kForwardColumns) * 2;
    ForChunkRows<kTokens, kOpenTokens>(item, engine.warps, [&](int first, int end, bool) {
      const int count = end - (first + leaf * kTokens);
      if (count > 0) {
        engine.control->full[place.slot].Wait(place.Use());
        AddTokens(q, engine.ring + place.slot * kSlotBytes, pitch, d, min(count, kTokens), sums);
        engine.control->empty[place.slot].ArriveAsWarp();
      }
      place.Advance(step, engine.slots);
    });
    engine.control->handover.AwaitEmpty(n);
#pragma unroll
    for (int g = 0; g < GC; ++g) {
      const int to = g * kForwardColumns + lane * 8;
      Store8(engine.leaves + at * GC * kForwardColumns + to, sums[g].acc);
      if (to % d == 0) {
        engine.leaf_sums[at * (GC * kForwardColumns / d) + to / d] = make_float2(sums[g].max, sums[g].sum);
      }
    }
  }

  // Four numbers of the result, from `column` of the item's accumulator on.
  static __device__ __forceinline__ void Output(const AttentionParams& p, const AttentionItem& item,
                                                int column, float4 value) {
    const int d = p.head_width, group = p.heads / p.kv_heads;
    const int kv_column = item.chunk % ColumnChunks(p) * kForwardColumns + column % kForwardColumns;
    const int in_group = item.chunk / ColumnChunks(p) * GC + column / kForwardColumns;
    if (kv_column >= p.state.kv || in_group >= group) return;
    const int64_t at = static_cast<int64_t>(kv_column / d * group + in_group) * d + kv_column % d;
    if (p.o_bf16 != nullptr) {
      bf16* o = static_cast<bf16*>(p.o_bf16) + static_cast<int64_t>(item.row) * p.pitch + at;
      *reinterpret_cast<__nv_bfloat162*>(o) = __floats2bfloat162_rn(value.x, value.y);
      *reinterpret_cast<__nv_bfloat162*>(o + 2) = __floats2bfloat162_rn(value.z, value.w);
    } else {
      *reinterpret_cast<float4*>(p.o + static_cast<int64_t>(item.row) * p.state.width + at) = value;
    }
  }
};

}  // namespace sessa::cuda
