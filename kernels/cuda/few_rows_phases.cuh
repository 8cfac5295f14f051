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
  if (threadIdx.x == 0) ArriveBarrier(&m.weights_free[half]);
}
// A block without columns of its own: nothing was copied to this half.
template <int V>
__device__ __forceinline__ void PassWeights(int half, uint32_t parity, FewRowsMemory<V>& m) {
  AwaitBytes(&m.weights_full[half], parity);
  SyncComputing();
  ReleaseWeights(half, m);
}

// n of all rows to the input of the linear layer. Every warp computes the moments, from the columns of all,
// and normalises those of its own strand.
template <int V>
__device__ __forceinline__ void NormRows(const FewRowsParams& p, const FewRowsLayer& layer,
                                         const FewRowsPass& pass, FewRowsMemory<V>& m) {
  constexpr int kPairs = 4 * V;
  const Strand strand = OwnStrand(p.pitch);
  const int column = OwnColumns(strand), lane = threadIdx.x % 32;
  const bool any = HasColumns(strand, p.width);
  float2 weight[2] = {}, bias[2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (any) weight[i] = LoadConstantPair(layer.norm_weight + column + 2 * i);
    if (any) bias[i] = LoadConstantPair(layer.norm_bias + column + 2 * i);
  }
  uint32_t numbers[4 * kFewRows];
  AwaitPairs<2 * kFewRows>(
      pass.epoch,
      [&](int i) {
        return any && i / 2 < pass.rows ? p.mail.x + WordOf(i / 2, column) + i % 2 * 2 : nullptr;
      },
      numbers);
  float4 x[kFewRows];
#pragma unroll
  for (int row = 0; row < kFewRows; ++row) {
    const uint32_t* of = numbers + 4 * row;
    x[row] = make_float4(__uint_as_float(of[0]), __uint_as_float(of[1]), __uint_as_float(of[2]),
                         __uint_as_float(of[3]));
    if (any && row < pass.rows) *reinterpret_cast<float4*>(&m.linear.residual[row][column]) = x[row];
  }
  SyncComputing();
#pragma unroll
  for (int row = 0; row < kFewRows; ++row) {
    if (row >= pass.rows) break;
    float2 kept[kPairs];
    const float2 moments = NormMoments<kPairs, false>(
        p.width, p.norm_eps,
        [&](int k) {
          const int c = 2 * (lane + 32 * k);
          return c < p.width ? *reinterpret_cast<const float2*>(&m.linear.residual[row][c])
                             : make_float2(0.0f, 0.0f);
        },
        kept);
    const auto normalise = [&](float number, float w, float b) {
      return fmaf((number - moments.x) * moments.y, w, b);
    };
    if (any) {
      *reinterpret_cast<uint2*>(&m.linear.x[row][column]) = make_uint2(
          PackBf16(normalise(x[row].x, weight[0].x, bias[0].x), normalise(x[row].y, weight[0].y, bias[0].y)),
          PackBf16(normalise(x[row].z, weight[1].x, bias[1].x), normalise(x[row].w, weight[1].y, bias[1].y)));
    }
  }
  __syncwarp();
}

// A thread of the first makes one of the tile's 16 outputs: eight of abar, eight of g.
template <int V>
__device__ __forceinline__ void In(const FewRowsParams& p, const FewRowsLayer& layer, const FewRowsPass& pass,
                                   FewRowsMemory<V>& m) {
  const int row = threadIdx.x / 16, output = threadIdx.x % 16, c = output % kGroup;
  TileWeights<1> weights;
  ReadTile<1>(m.weights + kInHalf * kFewOutputs / 2, p.pitch, weights);
  const float bias = LoadConstant(layer.in_bias + OwnColumn() + c + (output < kGroup ? 0 : p.width));
  NormRows(p, layer, pass, m);
  MultiplyTile<1>(weights, pass.rows, p.pitch, m.linear, &m.linear.in);
  SyncComputing();
  if (row < pass.rows) {
    float y = 0.0f;
#pragma unroll
    for (int s = 0; s < kStrands; ++s) y += m.linear.in[s][row][output];
    y += bias;
    const float abar = Gelu(y), next = __shfl_down_sync(0xffffu << (threadIdx.x & 16), abar, 1, 16);
    if (output < kGroup && c % 2 == 0) {
      Post(p.mail.abar + PairWord(row, OwnColumn() + c), PackBf16(abar, next), pass.epoch);
    }
    if (output >= kGroup) m.g[row][c] = y;
  }
  ReleaseWeights(kInHalf, m);
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

template <int V>
__device__ __forceinline__ void Project(const FewRowsParams& p, const FewRowsLayer& layer,
                                        const FewRowsPass& pass, FewRowsMemory<V>& m) {
  const int tile = threadIdx.x / 64, row = threadIdx.x / 8 % 8, pair = threadIdx.x % 8;
  const int n = ProjectGroup(2 * tile + pair / 4) + pair % 4 * 2;
  const bool any = tile < kFewTiles && n < p.project_outputs && row < pass.rows;
  const bool rotates = p.rotation != nullptr && n < p.width + p.kv;
  float2 bias = make_float2(0.0f, 0.0f), turn = bias;
  if (any) bias.x = LoadConstant(layer.project_bias + n);
  if (any && n + 1 < p.project_outputs) bias.y = LoadConstant(layer.project_bias + n + 1);
  if (any && rotates) turn = p.rotation[((row << p.head_shift) | (n & (p.head_width - 1))) / 2];
  TileWeights<kFewTiles> weights;
  AwaitBytes(&m.weights_full[kOutHalf], 0);
  AwaitBytes(&m.weights_full[kInHalf], 1);
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
    if (rotates) y = Rotate(y, turn);
    Place(p, layer.state, m.rows[row], m.own_pages[row], row, n, y, pass.epoch);
  }
  SyncComputing();  // the strands are read: the attention's query may take their place
}

// Weights of out_proj in the first eight outputs, of W_out in the last.
template <int V>
__device__ __forceinline__ void ReadOuts(const FewRowsParams& p, FewRowsMemory<V>& m,
                                         TileWeights<1>& weights) {
  AwaitBytes(&m.weights_full[kOutHalf], 1);
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

template <int V>
__device__ __forceinline__ void ResidualOut(const FewRowsParams& p, const FewRowsLayer& layer,
                                            const TileWeights<1>& weights, bool last, const FewRowsPass& pass,
                                            FewRowsMemory<V>& m) {
  const int row = threadIdx.x / 4, pair = threadIdx.x % 4, c = 2 * pair, n = OwnColumn() + c;
  const float2 bias = LoadConstantPair(layer.residual_bias + n);
  AwaitOthers(p, pass);
  AwaitInput(p.mail.u, p, pass, m.linear);
  MultiplyTile<1, V, false, true>(weights, pass.rows, p.pitch, m.linear, &m.linear.residual_out);
  SyncComputing();
  if (row >= pass.rows) return;
  const float2 y = SumStrands(m.linear.residual_out, row, kGroup / 2 + pair);
  float* x = m.x[row] + c;
  x[0] += y.x + bias.x;
  x[1] += y.y + bias.y;
  if (last) {
    *reinterpret_cast<float2*>(p.x + row * p.width + n) = make_float2(x[0], x[1]);
  } else {
    PostPair(p.mail.x + WordOf(row, n), __float_as_uint(x[0]), __float_as_uint(x[1]), pass.epoch + 1);
  }
}

}  // namespace sessa::cuda
