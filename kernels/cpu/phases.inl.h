// The phases around the matrix products: LayerNorm before them, and what is done with each row of outputs
// while it is in cache.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/math.inl.h"
#include "kernels/cpu/matmul.inl.h"

namespace sessa::cpu {

template <class S>
inline void StoreNumbers(float* p, typename S::Vec v, int n) {
  S::Store(p, v, n);
}
template <class S>
inline void StoreNumbers(uint16_t* p, typename S::Vec v, int n) {
  S::StoreBF16(p, v, n);
}

static inline int LanesAt(int column, int width) { return width - column < kLanes ? width - column : kLanes; }

// (x - mean) / sqrt(variance + eps) * weight + bias, biased variance.
template <class S, class Operand>
inline void LayerNormRow(const LayerNormArgs& a, const float* x, Operand* out) {
  auto sum = S::Zero();
  for (int c = 0; c < a.width; c += kLanes) sum = S::Add(sum, S::Load(x + c, LanesAt(c, a.width)));
  const auto mean = S::Set(S::ReduceAdd(sum) / static_cast<float>(a.width));
  auto squares = S::Zero();
  for (int c = 0; c < a.width; c += kLanes) {
    const int n = LanesAt(c, a.width);
    const auto deviation = S::Keep(S::Sub(S::Load(x + c, n), mean), n, S::Zero());
    squares = S::Fma(deviation, deviation, squares);
  }
  const float variance = S::ReduceAdd(squares) / static_cast<float>(a.width);
  const auto scale = S::Set(1.0f / __builtin_sqrtf(variance + a.eps));
  for (int c = 0; c < a.width; c += kLanes) {
    const int n = LanesAt(c, a.width);
    const auto normal = S::Mul(S::Sub(S::Load(x + c, n), mean), scale);
    StoreNumbers<S>(out + c, S::Fma(normal, S::Load(a.weight + c, n), S::Load(a.bias + c, n)), n);
  }
}

template <class S, class Operand>
void LayerNorm(const LayerNormArgs& a, int32_t row_begin, int32_t row_end) {
  for (int32_t row = row_begin; row < row_end; ++row) {
    const int64_t from = a.row_ids != nullptr ? a.row_ids[row] : row;
    LayerNormRow<S>(a, a.x + from * a.width,
                    static_cast<Operand*>(a.out) + int64_t{row - row_begin} * a.out_stride);
  }
}

template <class S, class Operand>
void NormIn(const NormInArgs& a, const Tile& tile) {
  const int a_outputs = (a.width + kLanes - 1) / kLanes * kLanes;  // then comes g
  const auto* n = static_cast<const Operand*>(a.n) - int64_t{a.first_row} * a.n_stride;
  Multiply<S>(n, a.n_stride, a.w, tile, [&](int64_t row, int panel, const float* out) {
    Operand* abar = static_cast<Operand*>(a.abar) + row * a.operand_stride;
    float* g = a.g + row * a.width;
    auto gamma = S::Zero();
    for (int v = 0; v < kPanelOutputs; v += kLanes) {
      const int column = panel * kPanelOutputs + v;
      const auto y = S::Add(S::Load(out + v), S::Load(a.w.bias + column));
      if (column < a_outputs) {
        const auto activation = Gelu<S>(y);
        gamma = S::Fma(activation, S::Load(a.gamma_weight + column), gamma);
        StoreNumbers<S>(abar + column, activation, LanesAt(column, a.width));
      } else if (column - a_outputs < a.width) {
        S::Store(g + column - a_outputs, y, LanesAt(column - a_outputs, a.width));
      }
    }
    if (panel < a.gamma_panels) a.gamma_partial[row * a.gamma_panels + panel] = S::ReduceAdd(gamma);
  });
}

// even' = even cos - odd sin; odd' = even sin + odd cos
template <class S>
inline typename S::Vec Rotate(const ProjectArgs& a, int64_t row, int offset, typename S::Vec y) {
  if (a.rope == nullptr) return y;
  const float* cosines = a.rope + row * 2 * a.rope_width + offset % a.head_width;
  return S::Fma(y, S::Load(cosines), S::Mul(S::SwapPairs(y), S::Load(cosines + a.rope_width)));
}

template <class S>
inline void StoreQuery(const ProjectArgs& a, void* queries, int64_t index, typename S::Vec v, int n) {
  if (a.bf16_scores) {
    S::StoreBF16(static_cast<uint16_t*>(queries) + index, v, n);
  } else {
    S::Store(static_cast<float*>(queries) + index, v, n);
  }
}

// k, v or kb to the row's page; `plane` as in Plane.
template <class S>
inline void StoreState(const ProjectArgs& a, int64_t row, int plane, int offset, typename S::Vec v, int n) {
  const RowState& state = a.rows[row];
  std::byte* to = state.page + a.plane_offset[plane] + state.slot * a.plane_row_bytes[plane];
  if (a.compact) {
    S::StoreBF16(reinterpret_cast<uint16_t*>(to) + offset, v, n);
  } else {
    S::Store(reinterpret_cast<float*>(to) + offset, v, n);
  }
}

template <class S, class Operand>
void Project(const ProjectArgs& a, const Tile& tile) {
  const auto query_scale = S::Set(a.query_scale), feedback_scale = S::Set(a.feedback_scale);
  const auto* abar = static_cast<const Operand*>(a.abar);
  Multiply<S>(abar, a.operand_stride, a.w, tile, [&](int64_t row, int panel, const float* out) {
    for (int v = 0; v < kPanelOutputs; v += kLanes) {
      const int column = panel * kPanelOutputs + v;
      const SectionVec to = a.sections[column / kLanes];
      if (to.lanes == 0) break;
      const auto y = S::Add(S::Load(out + v), S::Load(a.w.bias + column));
      const int64_t index = row * a.width + to.offset;
      switch (to.section) {
        case Section::kQuery:
          StoreQuery<S>(a, a.q, index, S::Mul(Rotate<S>(a, row, to.offset, y), query_scale), to.lanes);
          break;
        case Section::kFeedbackQuery:
          StoreQuery<S>(a, a.qb, index, S::Mul(y, feedback_scale), to.lanes);
          break;
        case Section::kKey:
          StoreState<S>(a, row, 0, to.offset, Rotate<S>(a, row, to.offset, y), to.lanes);
          break;
        case Section::kValue:
          StoreState<S>(a, row, 1, to.offset, y, to.lanes);
          break;
        case Section::kFeedbackKey:
          StoreState<S>(a, row, 2, to.offset, y, to.lanes);
          break;
      }
    }
  });
}

// s = f + gamma ctx for n columns of a row: s to the page, u = s g to the next product. Returns fp16
// saturations.
template <class S, class Operand>
inline int64_t StoreFeedback(const FeedbackOutArgs& a, int64_t row, int column, int n, typename S::Vec f,
                             typename S::Vec ctx) {
  const RowState& state = a.rows[row];
  const auto s = S::Fma(S::Set(a.gamma[row]), ctx, f);
  std::byte* to = state.page + a.s_offset + state.slot * a.s_row_bytes;
  const auto u = S::Mul(s, S::Load(a.g + row * a.width + column, n));
  StoreNumbers<S>(static_cast<Operand*>(a.u) + row * a.operand_stride + column, u, n);
  if (!a.compact) {
    S::Store(reinterpret_cast<float*>(to) + column, s, n);
    return 0;
  }
  S::StoreFP16(reinterpret_cast<uint16_t*>(to) + column, s, n);
  S::Store(state.open + a.open_offset + int64_t{state.slot} * a.width + column, s, n);
  return S::CountFP16Saturations(s, n);
}

template <class S, class Operand>
int64_t FeedbackOut(const FeedbackOutArgs& a, const Tile& tile) {
  int64_t saturations = 0;
  const auto finish = [&](int64_t row, int panel, const float* out) {
    for (int v = 0; v < kPanelOutputs; v += kLanes) {
      const int column = panel * kPanelOutputs + v;
      if (column >= a.width) break;
      const int n = LanesAt(column, a.width);
      if (a.rows[row].decode) {
        const auto ctx = S::Load(a.ctx + row * a.width + column, n);
        saturations += StoreFeedback<S, Operand>(a, row, column, n, S::Load(out + v, n), ctx);
      } else if (a.w.data != nullptr) {
        S::Store(a.f + row * a.width + column, S::Load(out + v), n);
      }
    }
  };
  if (a.w.data != nullptr) {
    Multiply<S>(static_cast<const Operand*>(a.o), a.operand_stride, a.w, tile, finish);
    return saturations;
  }
  for (int row = tile.row_begin; row < tile.row_end; ++row) {
    for (int panel = tile.panel_begin; panel < tile.panel_end; ++panel) {
      finish(row, panel, a.f + int64_t{row} * a.width + panel * kPanelOutputs);
    }
  }
  return saturations;
}

template <class S, class Operand>
void ResidualOut(const ResidualOutArgs& a, const Tile& tile) {
  const auto* u = static_cast<const Operand*>(a.u);
  Multiply<S>(u, a.operand_stride, a.w, tile, [&](int64_t row, int panel, const float* out) {
    for (int v = 0; v < kPanelOutputs; v += kLanes) {
      const int column = panel * kPanelOutputs + v;
      if (column >= a.width) break;
      const int n = LanesAt(column, a.width);
      float* x = a.x + row * a.width + column;
      const auto y = S::Add(S::Load(out + v), S::Load(a.w.bias + column));
      S::Store(x, S::Add(S::Load(x, n), y), n);
    }
  });
}

template <class S, class Operand>
void Head(const HeadArgs& a, const Tile& tile) {
  const auto* n = static_cast<const Operand*>(a.n) - int64_t{a.first_row} * a.n_stride;
  Multiply<S>(n, a.n_stride, a.w, tile, [&](int64_t row, int panel, const float* out) {
    for (int v = 0; v < kPanelOutputs; v += kLanes) {
      const int column = panel * kPanelOutputs + v;
      if (column >= a.vocab) break;
      S::Store(a.logits + row * a.vocab + column, S::Load(out + v), LanesAt(column, a.vocab));
    }
  });
}

}  // namespace sessa::cpu
