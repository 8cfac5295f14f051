// Attention of some rows over one block of at most 64 tokens, after their scores: weights, then sums of
// values, which lie along the lanes and are read from the pages as they are.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/phases.inl.h"
#include "kernels/cpu/score.inl.h"

namespace sessa::cpu {

static inline int ValidTokens(int valid, int step, int row) {
  valid += step * row;
  return valid < 0 ? 0 : valid > kBlock ? kBlock : valid;
}

// A step of the online softmax (Milakov and Gimelshein 2018), in base 2.
template <class S>
void Softmax(const SoftmaxArgs& a) {
  const float kLowest = -__builtin_inff();
  for (int r = 0; r < a.rows; ++r) {
    const int valid = ValidTokens(a.valid, a.valid_step, r);
    if (valid == 0) {
      a.scale[r] = 1.0f;
      continue;
    }
    float* p = a.p + r * kBlock;
    typename S::Vec x[4];
    for (int v = 0; v < 4; ++v) {
      const int left = valid - v * kLanes;
      x[v] = S::Keep(S::Load(p + v * kLanes), left < 0 ? 0 : left > kLanes ? kLanes : left, S::Set(kLowest));
    }
    const float block_max = S::ReduceMax(S::Max(S::Max(x[0], x[1]), S::Max(x[2], x[3])));
    const float m = block_max > a.m[r] ? block_max : a.m[r];
    for (int v = 0; v < 4; ++v) {
      x[v] = Exp2<S>(S::Sub(x[v], S::Set(m)));
      S::Store(p + v * kLanes, x[v]);
    }
    const float sum = S::ReduceAdd(S::Add(S::Add(x[0], x[1]), S::Add(x[2], x[3])));
    float scale[kLanes];
    S::Store(scale, Exp2<S>(S::Set(a.m[r] - m)));
    a.scale[r] = scale[0];
    a.l[r] = a.l[r] * scale[0] + sum;
    a.m[r] = m;
  }
}

template <class S>
struct FloatValues {
  using Number = float;
  static auto Load(const Number* p) { return S::Load(p); }
  static auto Load(const Number* p, int n) { return S::Load(p, n); }
};
template <class S>
struct BF16Values {
  using Number = uint16_t;
  static auto Load(const Number* p) { return S::LoadBF16(p); }
  static auto Load(const Number* p, int n) { return S::LoadBF16(p, n); }
};
template <class S>
struct FP16Values {
  using Number = uint16_t;
  static auto Load(const Number* p) { return S::LoadFP16(p); }
  static auto Load(const Number* p, int n) { return S::LoadFP16(p, n); }
};

// acc (R, kVecs vectors) = acc * scale + sum over tokens [begin, end) of p v. scale == nullptr: 1.
template <class S, class V, int R, int kVecs>
inline void AccumulateTile(const float* p, const float* scale, int begin, int end,
                           const typename V::Number* v, int64_t v_stride, float* acc, int64_t acc_stride) {
  typename S::Vec sum[R][kVecs];
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < kVecs; ++i) sum[r][i] = S::Load(acc + r * acc_stride + i * kLanes);
    if (scale == nullptr) continue;
    for (int i = 0; i < kVecs; ++i) sum[r][i] = S::Mul(sum[r][i], S::Set(scale[r]));
  }
  v += begin * v_stride;
  for (int j = begin; j < end; ++j, v += v_stride) {
    if constexpr (R < 4) {
      for (int i = 0; i < kVecs * kLanes * static_cast<int>(sizeof(*v)); i += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(v + kTokensAhead * v_stride) + i);
      }
    }
    if constexpr (R == 1) {
      const auto weight = S::Set(p[j]);
      for (int i = 0; i < kVecs; ++i) sum[0][i] = S::Fma(weight, V::Load(v + i * kLanes), sum[0][i]);
    } else {
      typename S::Vec values[kVecs];
      for (int i = 0; i < kVecs; ++i) values[i] = V::Load(v + i * kLanes);
      for (int r = 0; r < R; ++r) {
        const auto weight = S::Set(p[r * kBlock + j]);
        for (int i = 0; i < kVecs; ++i) sum[r][i] = S::Fma(weight, values[i], sum[r][i]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < kVecs; ++i) S::Store(acc + r * acc_stride + i * kLanes, sum[r][i]);
  }
}

// One row, any width.
template <class S, class V>
inline void AccumulateRow(const float* p, const float* scale, int begin, int end, const typename V::Number* v,
                          int64_t v_stride, int columns, float* acc) {
  int c = 0;
  for (; c + S::kStreamVecs * kLanes <= columns; c += S::kStreamVecs * kLanes) {
    AccumulateTile<S, V, 1, S::kStreamVecs>(p, scale, begin, end, v + c, v_stride, acc + c, 0);
  }
  if constexpr (S::kStreamVecs > 12) {
    for (; c + 12 * kLanes <= columns; c += 12 * kLanes) {
      AccumulateTile<S, V, 1, 12>(p, scale, begin, end, v + c, v_stride, acc + c, 0);
    }
  }
  for (; c + 4 * kLanes <= columns; c += 4 * kLanes) {
    AccumulateTile<S, V, 1, 4>(p, scale, begin, end, v + c, v_stride, acc + c, 0);
  }
  for (; c < columns; c += kLanes) {
    const int n = columns - c < kLanes ? columns - c : kLanes;
    auto sum = S::Load(acc + c, n);
    if (scale != nullptr) sum = S::Mul(sum, S::Set(*scale));
    for (int j = begin; j < end; ++j) sum = S::Fma(S::Set(p[j]), V::Load(v + j * v_stride + c, n), sum);
    S::Store(acc + c, sum, n);
  }
}

// R rows that all see tokens [0, end).
template <class S, class V, int R>
inline void AccumulateRows(const AccumulateArgs& a, const float* p, const float* scale, int end, float* acc) {
  const auto* v = static_cast<const typename V::Number*>(a.v);
  constexpr int kVecs = S::kTileVecs;
  int c = 0;
  for (; c + kVecs * kLanes <= a.columns; c += kVecs * kLanes) {
    AccumulateTile<S, V, R, kVecs>(p, scale, 0, end, v + c, a.v_stride, acc + c, a.acc_stride);
  }
  for (int r = 0; c < a.columns && r < R; ++r) {
    AccumulateRow<S, V>(p + r * kBlock, scale + r, 0, end, v + c, a.v_stride, a.columns - c,
                        acc + r * a.acc_stride + c);
  }
}

template <class S, class V, int R = 2>
inline void AccumulateSomeRows(int rows, const AccumulateArgs& a, const float* p, const float* scale, int end,
                               float* acc) {
  if constexpr (R < S::kTileRows) {
    if (rows > R) return AccumulateSomeRows<S, V, R + 1>(rows, a, p, scale, end, acc);
  }
  AccumulateRows<S, V, R>(a, p, scale, end, acc);
}

// Rows [row, row + rows): the tokens that all see at once, then what the later ones see beyond.
template <class S, class V>
inline void AccumulateGroup(const AccumulateArgs& a, int row, int rows) {
  const auto* v = static_cast<const typename V::Number*>(a.v);
  const float* p = a.p + row * kBlock;
  float* acc = a.acc + row * a.acc_stride;
  const int common = ValidTokens(a.valid, a.valid_step, row);
  if (rows == 1) {
    AccumulateRow<S, V>(p, a.scale + row, 0, common, v, a.v_stride, a.columns, acc);
    return;
  }
  AccumulateSomeRows<S, V>(rows, a, p, a.scale + row, common, acc);
  for (int r = 1; r < rows; ++r) {
    const int valid = ValidTokens(a.valid, a.valid_step, row + r);
    if (valid == common) continue;
    AccumulateRow<S, V>(p + r * kBlock, nullptr, common, valid, v, a.v_stride, a.columns,
                        acc + r * a.acc_stride);
  }
}

template <class S, class V>
inline void AccumulateAll(const AccumulateArgs& a) {
  if (a.rows == 1) return AccumulateGroup<S, V>(a, 0, 1);
  AccumulateArgs panel = a;  // some columns at a time: their values stay in the first cache for all rows
  for (int c = 0; c < a.columns; c += kPanelOutputs) {
    panel.v = static_cast<const typename V::Number*>(a.v) + c;
    panel.acc = a.acc + c;
    panel.columns = a.columns - c < kPanelOutputs ? a.columns - c : kPanelOutputs;
    const int groups = (a.rows + S::kTileRows - 1) / S::kTileRows;
    for (int group = 0; group < groups; ++group) {  // of even size
      const int begin = a.rows * group / groups, end = a.rows * (group + 1) / groups;
      AccumulateGroup<S, V>(panel, begin, end - begin);
    }
  }
}

template <class S>
void Accumulate(const AccumulateArgs& a) {
  switch (a.values) {
    case Values::kF32:
      return AccumulateAll<S, FloatValues<S>>(a);
    case Values::kBF16:
      return AccumulateAll<S, BF16Values<S>>(a);
    case Values::kFP16:
      return AccumulateAll<S, FP16Values<S>>(a);
  }
}

template <class S, class Operand>
void Normalize(const NormalizeArgs& a) {
  for (int r = 0; r < a.rows; ++r) {
    const auto factor = S::Set(a.l[r] == 0.0f ? 0.0f : 1.0f / a.l[r]);
    for (int c = 0; c < a.columns; c += kLanes) {
      const int n = LanesAt(c, a.columns);
      const auto out = S::Mul(S::Load(a.acc + r * a.acc_stride + c, n), factor);
      if (a.to_float) {
        S::Store(static_cast<float*>(a.out) + r * a.out_stride + c, out, n);
      } else {
        StoreNumbers<S>(static_cast<Operand*>(a.out) + r * a.out_stride + c, out, n);
      }
    }
  }
}

// Forward substitution of (I - B) s = f within a block, a row at a time.
template <class S, class Operand>
int64_t Solve(const SolveArgs& a) {
  int64_t saturations = 0;
  for (int64_t row = a.row_begin; row < a.row_end; ++row) {
    const RowState& state = a.out.rows[row];
    const float* own = a.out.compact ? state.open + a.out.open_offset
                                     : reinterpret_cast<const float*>(state.page + a.out.s_offset);
    float* acc = a.acc + row * a.width;
    AccumulateRow<S, FloatValues<S>>(a.p + row * kBlock, a.scale + row, 0, state.slot, own + a.column_begin,
                                     a.width, a.column_end - a.column_begin, acc + a.column_begin);
    const auto factor = S::Set(a.l[row] == 0.0f ? 0.0f : 1.0f / a.l[row]);
    for (int c = a.column_begin; c < a.column_end; c += kLanes) {
      const int n = LanesAt(c, a.column_end);
      const auto ctx = S::Mul(S::Load(acc + c, n), factor);
      saturations +=
          StoreFeedback<S, Operand>(a.out, row, c, n, S::Load(a.out.f + row * a.width + c, n), ctx);
    }
  }
  return saturations;
}

}  // namespace sessa::cpu
