// Matrix products against packed weights, a register tile of some rows x 64 outputs at a time. Each output is
// one chain of multiply-adds over the inputs in order, so it does not depend on the rows beside it.
#pragma once

#include "kernels/cpu/kernels.h"

namespace sessa::cpu {

// out (R, 64) = a (R, stride) panel^T, float32.
template <class S, int R>
inline void MultiplyTile(const float* a, int64_t stride, const float* panel, int inputs, float* out) {
  constexpr int kVecs = S::kTileVecs;
  for (int first = 0; first < 4; first += kVecs) {
    typename S::Vec acc[R][kVecs];
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kVecs; ++v) acc[r][v] = S::Zero();
    }
    const float* w = panel + first * kLanes;
    for (int k = 0; k < inputs; ++k, w += kPanelOutputs) {
      typename S::Vec weights[kVecs];
      for (int v = 0; v < kVecs; ++v) weights[v] = S::Load(w + v * kLanes);
      for (int r = 0; r < R; ++r) {
        const auto input = S::Set(a[r * stride + k]);
        for (int v = 0; v < kVecs; ++v) acc[r][v] = S::Fma(input, weights[v], acc[r][v]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kVecs; ++v) S::Store(out + r * kPanelOutputs + (first + v) * kLanes, acc[r][v]);
    }
  }
}

// The same with bf16 pairs: acc += a[2k] w[2k] + a[2k + 1] w[2k + 1].
template <class S, int R>
inline void MultiplyTile(const uint16_t* a, int64_t stride, const uint16_t* panel, int inputs, float* out) {
  typename S::Vec acc[R][4];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < 4; ++v) acc[r][v] = S::Zero();
  }
  for (int k = 0; k < inputs; k += 2, panel += 2 * kPanelOutputs) {
    typename S::Pairs weights[4];
    for (int v = 0; v < 4; ++v) weights[v] = S::LoadPairs(panel + v * 2 * kLanes);
    for (int r = 0; r < R; ++r) {
      const auto input = S::SetPair(a + r * stride + k);
      for (int v = 0; v < 4; ++v) acc[r][v] = S::DotPairs(acc[r][v], input, weights[v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < 4; ++v) S::Store(out + r * kPanelOutputs + v * kLanes, acc[r][v]);
  }
}

// MultiplyTile for a number of rows (R .. kTileRows) known only at run time.
template <class S, int R = 1, class Operand>
inline void MultiplyRows(int rows, const Operand* a, int64_t stride, const Operand* panel, int inputs,
                         float* out) {
  if constexpr (R < S::kTileRows) {
    if (rows > R) return MultiplyRows<S, R + 1>(rows, a, stride, panel, inputs, out);
  }
  MultiplyTile<S, R>(a, stride, panel, inputs, out);
}

// Calls finish(row, panel, out) for each row and panel of the tile, out (64) being the row's products with
// the panel. Row r is at a + r * stride.
template <class S, class Operand, class Finish>
inline void Multiply(const Operand* a, int64_t stride, const Matrix& w, const Tile& tile,
                     const Finish& finish) {
  alignas(64) float out[S::kTileRows * kPanelOutputs];
  const int rows = tile.row_end - tile.row_begin;
  const int groups = (rows + S::kTileRows - 1) / S::kTileRows;
  for (int panel = tile.panel_begin; panel < tile.panel_end; ++panel) {
    const auto* weights =
        reinterpret_cast<const Operand*>(static_cast<const std::byte*>(w.data) + panel * w.bytes_per_panel);
    for (int group = 0; group < groups; ++group) {  // of even size: 8 rows are 4 + 4, not 6 + 2
      const int begin = tile.row_begin + rows * group / groups,
                end = tile.row_begin + rows * (group + 1) / groups;
      MultiplyRows<S>(end - begin, a + begin * stride, stride, weights, w.inputs, out);
      for (int row = begin; row < end; ++row) finish(row, panel, out + (row - begin) * kPanelOutputs);
    }
  }
}

}  // namespace sessa::cpu
