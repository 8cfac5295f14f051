// The phases of a layer that are linear layers (few_rows.cu). Of each the weights are read, and what else
// does not depend on other blocks, before the wait for the input.
#pragma once

#include "kernels/cuda/epilogues.cuh"
#include "kernels/cuda/few_rows_linear.cuh"
#include "kernels/cuda/norm_row.cuh"

namespace sessa::cuda {

// Called after a SyncComputing behind the last read of a half of the weights.
template <int V>
__device__ __forceinline__ void ReleaseWeights(int half, FewRowsMemory<V>& m) {
  m.weights_free[half].ArriveAfterMeeting();
}
// A block without columns of its own: nothing was copied to this half.
template <int V>
__device__ __forceinline__ void PassWeights(int half, uint32_t parity, FewRowsMemory<V>& m) {
  m.weights_full[half].Wait(parity);
  SyncComputing();
  ReleaseWeights(half, m);
}

// LayerNorm's weights and biases of the four columns of this lane.
struct NormColumns {
  float2 weight[2] = {}, bias[2] = {};
};
__device__ __forceinline__ NormColumns LoadNorm(const FewRowsParams& p, const float* weight,
                                                const float* bias) {
  const Strand strand = OwnStrand(p.pitch);
  NormColumns norm;
  if (!HasColumns(strand, p.width)) return norm;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    norm.weight[i] = LoadConstantPair(weight + OwnColumns(strand) + 2 * i);
    norm.bias[i] = LoadConstantPair(bias + OwnColumns(strand) + 2 * i);
  }
  return norm;
}

template <int V>
__device__ __forceinline__ float2 MomentsOf(const FewRowsParams& p, const float* row) {
  constexpr int kPairs = 4 * V;
  float2 kept[kPairs];
  const auto load = [&](int k) {
    return *reinterpret_cast<const float2*>(&row[2 * (threadIdx.x % 32 + 32 * k)]);  // maybe beyond the width
  };
  if (p.width == 64 * kPairs) return NormMoments<kPairs, false, true>(p.width, p.norm_eps, load, kept);
  return NormMoments<kPairs, false, false>(p.width, p.norm_eps, load, kept);
}

// n of all rows to the input of the linear layer. Every warp computes the moments, from the columns of all,
// and normalises those of its own strand.
template <int V>
__device__ __forceinline__ void NormRows(const FewRowsParams& p, const NormColumns& norm,
                                         const FewRowsPass& pass, FewRowsMemory<V>& m) {
  const Strand strand = OwnStrand(p.pitch);
  const int column = OwnColumns(strand);
  const bool any = HasColumns(strand, p.width);
  uint32_t numbers[4 * kFewRows];
  AwaitPairs<2 * kFewRows>(
      pass.epoch,
      [&](int i) {
        return any && i / 2 < pass.rows ? p.mail.x + WordOf(i / 2, column) + i % 2 * 2 : nullptr;
      },
      numbers);
#pragma unroll
  for (int row = 0; row < kFewRows; ++row) {
    if (!any || row >= pass.rows) continue;
    *reinterpret_cast<uint4*>(&m.linear.residual[row][column]) =
        make_uint4(numbers[4 * row], numbers[4 * row + 1], numbers[4 * row + 2], numbers[4 * row + 3]);
  }
  SyncComputing();
#pragma unroll 1
  for (int row = 0; row < pass.rows; ++row) {
    const float2 moments = MomentsOf<V>(p, m.linear.residual[row]);
    const auto normalise = [&](float number, float w, float b) {
      return fmaf((number - moments.x) * moments.y, w, b);
    };
    if (any) {
      const float4 x = *reinterpret_cast<const float4*>(&m.linear.residual[row][column]);
      *reinterpret_cast<uint2*>(&m.linear.x[row][column]) =
          make_uint2(PackBf16(normalise(x.x, norm.weight[0].x, norm.bias[0].x),
                              normalise(x.y, norm.weight[0].y, norm.bias[0].y)),
                     PackBf16(normalise(x.z, norm.weight[1].x, norm.bias[1].x),
                              normalise(x.w, norm.weight[1].y, norm.bias[1].y)));
    }
  }
  __syncwarp();
}

// What In takes of its layer, loaded in the layer before. Waits for the layer's description, too.
struct InAhead {
  TileWeights<1> weights;
  NormColumns norm;
  float bias;
};
template <int V>
__device__ __forceinline__ void LoadIn(const FewRowsParams& p, const FewRowsLayer& layer, FewRowsMemory<V>& m,
                                       InAhead& in) {
  const int output = threadIdx.x % 16;
  m.weights_full[kInHalf].Wait(0);
  in.norm = LoadNorm(p, layer.norm_weight, layer.norm_bias);
  in.bias = LoadConstant(layer.in_bias + OwnColumn() + output % kGroup + (output < kGroup ? 0 : p.width));
  ReadTile<1>(m.weights + kInHalf * kFewOutputs / 2, p.pitch, in.weights);
}

// A thread of the first makes one of the tile's 16 outputs: eight of abar, eight of g.
template <int V>
__device__ __forceinline__ void In(const FewRowsParams& p, const InAhead& in, const FewRowsPass& pass,
                                   FewRowsMemory<V>& m) {
  const int row = threadIdx.x / 16, output = threadIdx.x % 16, c = output % kGroup;
  NormRows(p, in.norm, pass, m);
  MultiplyTile<1>(in.weights, pass.rows, p.pitch, m.linear, &m.linear.in);
  SyncComputing();
  if (row < pass.rows) {
    float y = 0.0f;
#pragma unroll
    for (int s = 0; s < kStrands; ++s) y += m.linear.in[s][row][output];
    y += in.bias;
    const float abar = Gelu(y), next = __shfl_down_sync(0xffffu << (threadIdx.x & 16), abar, 1, 16);
    if (output < kGroup && c % 2 == 0) {
      Post(p.mail.abar + PairWord(row, OwnColumn() + c), PackBf16(abar, next), pass.epoch);
    }
    if (output >= kGroup) m.g[row][c] = y;
  }
}

// What becomes of outputs n and n + 1 of the projections, the bias added.
__device__ __forceinline__ void Place(const FewRowsParams& p, const LayerState& state, const RowMeta& meta,
                                      int64_t own_page, int row, int n, float2 y, uint32_t epoch) {
  const int d = p.width, kv = state.kv;
  if (n == 3 * d + 2 * kv) y.x = p.gamma_max * tanhf(y.x);
  PostPair(p.mail.y + row * p.y_pitch + n, __float_as_uint(y.x), __float_as_uint(y.y), epoch);
  const auto store = [&](int64_t plane, int width, int column) {
    *reinterpret_cast<uint32_t*>(StateRow(state, meta, own_page, plane, width) + 2 * column) =
        PackBf16(y.x, y.y);
  };
  if (n >= d && n < d + kv) store(state.k, kv, n - d);
  if (n >= d + kv && n < d + 2 * kv) store(state.v, kv, n - d - kv);
  if (n >= 2 * d + 2 * kv && n < 3 * d + 2 * kv) store(state.kb, d, n - 2 * d - 2 * kv);
}

// The two outputs of the projections that are a thread's, if any.
struct ProjectOutputs {
  int tile, row, pair, n;
  bool any;
};
__device__ __forceinline__ ProjectOutputs OwnProjectOutputs(const FewRowsParams& p, int rows) {
  const int tile = threadIdx.x / 64, row = threadIdx.x / 8 % 8, pair = threadIdx.x % 8;
  const int n = ProjectGroup(2 * tile + pair / 4) + pair % 4 * 2;
  return {tile, row, pair, n, tile < kFewTiles && n < p.project_outputs && row < rows};
}
__device__ __forceinline__ bool Rotates(const FewRowsParams& p, int n) {
  return p.theta != nullptr && n < p.width + p.kv;
}

template <int V>
__device__ __forceinline__ void Project(const FewRowsParams& p, const FewRowsLayer& layer,
                                        const FewRowsPass& pass, FewRowsMemory<V>& m) {
  const auto [tile, row, pair, n, any] = OwnProjectOutputs(p, pass.rows);
  float2 bias = make_float2(0.0f, 0.0f);
  if (any) bias.x = LoadConstant(layer.project_bias + n);
  if (any && n + 1 < p.project_outputs) bias.y = LoadConstant(layer.project_bias + n + 1);
  TileWeights<kFewTiles> weights;
  m.weights_full[kOutHalf].Wait(0);
  m.weights_full[kInHalf].Wait(1);
  ReadTile<kFewTiles>(m.weights, p.pitch, weights);
  // A block without outputs is awaited by nobody: it must not wait, either.
  if (ProjectGroup(0) < p.project_outputs) AwaitInput(p.mail.abar, p, pass, m.linear);
  MultiplyTile<kFewTiles>(weights, pass.rows, p.pitch, m.linear, m.linear.project);
  SyncComputing();
  ReleaseWeights(kOutHalf, m);
  ReleaseWeights(kInHalf, m);
  if (any) {
    float2 y = SumStrands(m.linear.project[tile], row, pair);
    y.x += bias.x;
    y.y += bias.y;
    if (Rotates(p, n)) y = Rotate(y, pass.turn);
    Place(p, layer.state, m.rows[row], m.own_pages[row], row, n, y, pass.epoch);
  }
  SyncComputing();  // the strands are read: the attention's query may take their place
}

// Weights of out_proj in the first eight outputs, of W_out in the last.
template <int V>
__device__ __forceinline__ void ReadOuts(const FewRowsParams& p, FewRowsMemory<V>& m,
                                         TileWeights<1>& weights) {
  m.weights_full[kOutHalf].Wait(1);
  ReadTile<1>(m.weights + kOutHalf * kFewOutputs / 2, p.pitch, weights);
}

template <int V>
__device__ __forceinline__ void FeedbackOut(const FewRowsParams& p, const LayerState& state,
                                            const TileWeights<1>& weights, const FewRowsPass& pass,
                                            FewRowsMemory<V>& m) {
  AwaitInput(p.mail.o, p, pass, m.linear);
  MultiplyTile<1, V, true, false>(weights, pass.rows, p.pitch, m.linear, &m.linear.out);
  SyncComputing();
  ReleaseWeights(kOutHalf, m);
  // The first warp goes on to the next wait at once; the second stores s, which no other block reads in this
  // pass.
  const int warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, pair = threadIdx.x % 4, c = 2 * pair,
            n = OwnColumn() + c;
  if (warp > 1 || row >= pass.rows) return;
  const float2 f = SumStrands(m.linear.out, row, pair);
  const float s0 = fmaf(m.gamma[row], m.ctx[row][c], f.x), s1 = fmaf(m.gamma[row], m.ctx[row][c + 1], f.y);
  if (warp == 0) {
    Post(p.mail.u + PairWord(row, n), PackBf16(s0 * m.g[row][c], s1 * m.g[row][c + 1]), pass.epoch);
  } else {
    StoreFeedback(state, m.rows[row], m.own_pages[row], n, s0, p.saturations);
    StoreFeedback(state, m.rows[row], m.own_pages[row], n + 1, s1, p.saturations);
  }
}

// Blocks that are no owners have read abar when their first output is there; one owner sees to it.
__device__ __forceinline__ void AwaitOthers(const FewRowsParams& p, const FewRowsPass& pass) {
  const int column = p.width + threadIdx.x * kGroup;  // first output of the block D / 8 + thread
  if (blockIdx.x != 0 || column >= p.project_outputs || column >= static_cast<int>(gridDim.x) * kGroup)
    return;
  uint32_t number[1];
  Await<1>(
      pass.epoch, [&](int) { return p.mail.y + column; }, number);
}

__device__ __forceinline__ float2 LoadResidualBias(const FewRowsLayer& layer) {
  return LoadConstantPair(layer.residual_bias + OwnColumn() + threadIdx.x % 4 * 2);
}
template <int V>
__device__ __forceinline__ void ResidualOut(const FewRowsParams& p, const float2& bias,
                                            const TileWeights<1>& weights, const FewRowsPass& pass,
                                            FewRowsMemory<V>& m) {
  const int row = threadIdx.x / 4, pair = threadIdx.x % 4, c = 2 * pair, n = OwnColumn() + c;
  AwaitOthers(p, pass);
  AwaitInput(p.mail.u, p, pass, m.linear);
  MultiplyTile<1, V, false, true>(weights, pass.rows, p.pitch, m.linear, &m.linear.residual_out);
  SyncComputing();
  if (row >= pass.rows) return;
  const float2 y = SumStrands(m.linear.residual_out, row, kGroup / 2 + pair);
  float* x = m.x[row] + c;
  x[0] += y.x + bias.x;
  x[1] += y.y + bias.y;
  PostPair(p.mail.x + WordOf(row, n), __float_as_uint(x[0]), __float_as_uint(x[1]), pass.epoch + 1);
}

}  // namespace sessa::cuda
