// Scores of some rows with the tokens of a block. Queries and keys meet along the lanes: lane i takes numbers
// i, i + 16, ... of both, and the lanes are added at the end.
#pragma once

#include "kernels/cpu/phases.inl.h"

namespace sessa::cpu {

// How far ahead of its use memory is asked for when few rows (decode) stream it: about 10 KB. The hardware's
// own prefetch stops at every 4 KB page.
static constexpr int kTokensAhead = 16;

// How a query and a key of n numbers are loaded and multiplied, kNumbers at a time.
template <class S>
struct FloatKeys {
  using Query = float;
  using Key = float;
  static constexpr int kNumbers = 16;
  static auto LoadQuery(const Query* p, int n) { return n == 16 ? S::Load(p) : S::Load(p, n); }
  static auto LoadKey(const Key* p, int n) { return n == 16 ? S::Load(p) : S::Load(p, n); }
  static auto Dot(typename S::Vec acc, typename S::Vec q, typename S::Vec k) { return S::Fma(q, k, acc); }
};
template <class S>
struct BF16Keys : FloatKeys<S> {
  using Key = uint16_t;
  static auto LoadKey(const Key* p, int n) { return n == 16 ? S::LoadBF16(p) : S::LoadBF16(p, n); }
};
template <class S>
struct BF16DotKeys {
  using Query = uint16_t;
  using Key = uint16_t;
  static constexpr int kNumbers = 32;
  static auto LoadQuery(const Query* p, int n) { return n == 32 ? S::LoadPairs(p) : S::LoadPairs(p, n); }
  static auto LoadKey(const Key* p, int n) { return LoadQuery(p, n); }
  static auto Dot(typename S::Vec acc, typename S::Pairs q, typename S::Pairs k) {
    return S::DotPairs(acc, q, k);
  }
};

// Scores of R <= 4 rows with tokens [begin, end), 16 / R of them at a time.
template <class S, class K, int R>
inline void ScoreRows(const ScoreArgs& a, int begin, int end, const typename K::Query* q, float* scores) {
  constexpr int kTokens = R == 1 ? 16 : R == 2 ? 8 : 4;
  const auto* k = static_cast<const typename K::Key*>(a.k) + begin * a.k_stride;
  for (int token = begin; token < end; token += kTokens, k += kTokens * a.k_stride) {
    typename S::Vec acc[16];
    for (int i = 0; i < 16; ++i) acc[i] = S::Zero();
    const auto step = [&](int c, int n) {
      decltype(K::LoadQuery(q, n)) query[R];
      for (int r = 0; r < R; ++r) query[r] = K::LoadQuery(q + r * a.q_stride + c, n);
      for (int t = 0; t < kTokens; ++t) {
        const auto* address = k + t * a.k_stride + c;
        if constexpr (R < 4) __builtin_prefetch(address + kTokensAhead * a.k_stride);
        const auto key = K::LoadKey(address, n);
        for (int r = 0; r < R; ++r) acc[r * kTokens + t] = K::Dot(acc[r * kTokens + t], query[r], key);
      }
    };
    int c = 0;
    for (; c + K::kNumbers <= a.width; c += K::kNumbers) step(c, K::kNumbers);
    if (c < a.width) step(c, a.width - c);
    const auto sums = S::ReduceAdd16(acc);
    alignas(64) float out[16];
    S::Store(out, sums);
    for (int r = 0; r < R; ++r)
      __builtin_memcpy(scores + r * kBlock + token, out + r * kTokens, kTokens * sizeof(float));
  }
}

// ScoreRows for a number of rows (R .. 4) known only at run time.
template <class S, class K, int R = 1>
inline void ScoreSomeRows(int rows, const ScoreArgs& a, int begin, int end, const typename K::Query* q,
                          float* scores) {
  if constexpr (R < 4) {
    if (rows > R) return ScoreSomeRows<S, K, R + 1>(rows, a, begin, end, q, scores);
  }
  ScoreRows<S, K, R>(a, begin, end, q, scores);
}

template <class S, class K>
inline void ScoreAll(const ScoreArgs& a) {
  constexpr int kChunk = 16;  // tokens whose keys stay in the first cache while all rows meet them
  const auto* q = static_cast<const typename K::Query*>(a.q);
  for (int begin = 0; begin < a.tokens; begin += kChunk) {
    const int end = a.tokens - begin < kChunk ? a.tokens : begin + kChunk;
    for (int row = 0; row < a.rows; row += 4) {
      ScoreSomeRows<S, K>(a.rows - row < 4 ? a.rows - row : 4, a, begin, end, q + row * a.q_stride,
                          a.scores + row * kBlock);
    }
  }
}

template <class S>
void Score(const ScoreArgs& a) {
  switch (a.keys) {
    case Keys::kF32:
      return ScoreAll<S, FloatKeys<S>>(a);
    case Keys::kBF16:
      return ScoreAll<S, BF16Keys<S>>(a);
    case Keys::kBF16Dot:
      if constexpr (S::kHasBF16Dot) return ScoreAll<S, BF16DotKeys<S>>(a);
      __builtin_unreachable();
  }
}

}  // namespace sessa::cpu
