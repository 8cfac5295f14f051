// The phases of a layer that are linear layers (few_rows.cu), and their weights.
#pragma once

#include "kernels/cuda/epilogues.cuh"
#include "kernels/cuda/few_rows_linear.cuh"
#include "kernels/cuda/norm_row.cuh"

namespace sessa::cuda {

__device__ __forceinline__ int OwnColumn() { return static_cast<int>(blockIdx.x) * kGroup; }
__device__ __forceinline__ bool IsOwner(const FewRowsParams& p) { return OwnColumn() < p.width; }

__device__ __forceinline__ void PrefetchRows(const void* weight, int first, int outputs, int pitch) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (first >= outputs) return;
  const bf16* at = static_cast<const bf16*>(weight) + static_cast<int64_t>(first) * pitch;
  const int bytes = min(kGroup, outputs - first) * pitch * 2;
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(bytes) : "memory");
#endif
}

// Of all warps, the one that starts copies.
__device__ __forceinline__ bool IsCopying() { return threadIdx.x >= kFewThreads - 32; }

// First of output group `i` of this block's projections, which are dealt out one by one.
__device__ __forceinline__ int ProjectGroup(int i) {
  return static_cast<int>(blockIdx.x + i * gridDim.x) * kGroup;
}

// The copying warp: this block's weights of a layer, those of the projections to shared memory (a lane an
// output), the others to the L2 cache.
template <int V>
__device__ __forceinline__ void FetchWeights(const FewRowsParams& p, const FewRowsLayer& layer,
                                             FewRowsMemory<V>& m) {
  const int lane = threadIdx.x % 32, output = ProjectGroup(lane / kGroup) + lane % kGroup,
            bytes = p.pitch * 2;
  const bool any = output < p.project_outputs;
  const int outputs = __popc(__ballot_sync(kWholeWarp, any));
  if (lane == 0) ExpectBytes(&m.project_arrived, outputs * bytes);
  __syncwarp();
  if (any) {
    const char* from = static_cast<const char*>(layer.project) + static_cast<int64_t>(output) * bytes;
    CopyBytes<false>(reinterpret_cast<char*>(m.project[lane]), from, bytes, &m.project_arrived);
  }
  EndCopies(&m.project_arrived);
  if (!IsOwner(p) || lane >= 4) return;
  const void* weights = lane < 2 ? layer.in : lane == 2 ? layer.out : layer.residual;
  PrefetchRows(weights, OwnColumn() + (lane == 1 ? p.width : 0), lane < 2 ? 2 * p.width : p.width, p.pitch);
}

template <int V>
__device__ __forceinline__ void LoadLayer(const FewRowsParams& p, int layer, FewRowsMemory<V>& m) {
  static_assert(sizeof(FewRowsLayer) % 8 == 0 && sizeof(FewRowsLayer) / 8 <= kFewThreads);
  if (layer >= p.layer_count || threadIdx.x >= sizeof(FewRowsLayer) / 8) return;
  reinterpret_cast<int64_t*>(&m.layers[layer % 2])[threadIdx.x] =
      reinterpret_cast<const int64_t*>(p.layers + layer)[threadIdx.x];
}

// n of all rows to the input of the linear layer, a row a warp.
template <int V>
__device__ __forceinline__ void NormRows(const FewRowsParams& p, const FewRowsLayer& layer,
                                         const FewRowsPass& pass, FewRowsMemory<V>& m) {
  constexpr int kPairs = 4 * V;
  const int row = threadIdx.x / 32, width = p.width;
  const auto column = [](int k) { return 2 * static_cast<int>(threadIdx.x % 32 + 32 * k); };
  if (row < pass.rows) {
    float2 weight[kPairs], bias[kPairs];
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      weight[k] = bias[k] = make_float2(0.0f, 0.0f);
      if (column(k) < width) weight[k] = LoadConstantPair(layer.norm_weight + column(k));
      if (column(k) < width) bias[k] = LoadConstantPair(layer.norm_bias + column(k));
    }
    uint32_t x[2 * kPairs];
    AwaitPairs<kPairs>(
        pass.epoch, [&](int k) { return column(k) < width ? p.mail.x + row * width + column(k) : nullptr; },
        x);
    NormRow<kPairs, false>(
        width, p.norm_eps,
        [&](int k) { return make_float2(__uint_as_float(x[2 * k]), __uint_as_float(x[2 * k + 1])); },
        [&](int k, float2 y) {
          *reinterpret_cast<uint32_t*>(&m.linear.x[row][column(k)]) =
              PackBf16(fmaf(y.x, weight[k].x, bias[k].x), fmaf(y.y, weight[k].y, bias[k].y));
        });
  }
  __syncthreads();
}

// Weights of a layer that are fetched ahead, with the biases of this thread's outputs.
struct InTile {
  TileWeights<1> weights;
  float bias;
};
struct OutTiles {
  TileWeights<1> out, residual;
  float2 bias;
};

__device__ __forceinline__ void LoadIn(const FewRowsParams& p, const FewRowsLayer& layer, InTile& tile) {
  const TileGroups<1> groups = {{OwnColumn(), p.width + OwnColumn()}};  // of a, of g
  LoadTile<1>(layer.in, p.pitch, 2 * p.width, groups, tile.weights);
  const int output = threadIdx.x % 16;
  tile.bias = LoadConstant(layer.in_bias + OwnColumn() + output % kGroup + (output < kGroup ? 0 : p.width));
}

// A thread makes one of the tile's 16 outputs.
template <int V>
__device__ __forceinline__ void In(const FewRowsParams& p, const InTile& tile, const FewRowsPass& pass,
                                   FewRowsMemory<V>& m) {
  MultiplyTile<1>(tile.weights, pass.rows, p.pitch, m.linear);
  __syncthreads();
  const int row = threadIdx.x / 16, output = threadIdx.x % 16, c = output % kGroup;
  if (row >= pass.rows) return;
  float y = 0.0f;
#pragma unroll
  for (int s = 0; s < kStrands; ++s) y += m.linear.strands[0][s][row][output];
  y += tile.bias;
  if (output >= kGroup) m.g[row][c] = y;
  const float abar = Gelu(y), next = __shfl_down_sync(0xffffu << (threadIdx.x & 16), abar, 1, 16);
  if (output < kGroup && c % 2 == 0) {
    Post(p.mail.abar + (row * p.width + OwnColumn() + c) / 2, PackBf16(abar, next), pass.epoch);
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

template <int V>
__device__ __forceinline__ void Project(const FewRowsParams& p, int layer_index, const FewRowsPass& pass,
                                        FewRowsMemory<V>& m) {
  const FewRowsLayer& layer = m.layers[layer_index % 2];
  const int tile = threadIdx.x / 64, row = threadIdx.x / 8 % kTileRows, pair = threadIdx.x % 8;
  const int n = ProjectGroup(2 * tile + pair / 4) + pair % 4 * 2;
  const bool any = tile < kFewTiles && n < p.project_outputs && row < pass.rows;
  const bool rotates = p.rotation != nullptr && n < p.width + p.kv;
  float2 bias = make_float2(0.0f, 0.0f), turn = bias;
  if (any) bias.x = LoadConstant(layer.project_bias + n);
  if (any && n + 1 < p.project_outputs) bias.y = LoadConstant(layer.project_bias + n + 1);
  if (any && rotates) turn = p.rotation[((row << p.head_shift) | (n & (p.head_width - 1))) / 2];
  TileWeights<kFewTiles> weights;
  m.project_arrived.Wait(layer_index & 1);
  ReadTile<kFewTiles>(m.project, p.pitch, weights);
  if (ProjectGroup(0) < p.project_outputs) {
    AwaitInput(p.mail.abar, p.width, pass, m.linear);
  } else {  // nobody awaits this block: it must not wait, either
    __syncthreads();
  }
  LoadLayer(p, layer_index + 1, m);  // nobody is in the layer before this one any more
  MultiplyTile<kFewTiles>(weights, pass.rows, p.pitch, m.linear);
  __syncthreads();
  if (any) {
    float2 y = SumStrands(m.linear.strands[tile], row, pair);
    y.x += bias.x;
    y.y += bias.y;
    if (rotates) y = Rotate(y, turn);
    Place(p, layer.state, m.rows[row], m.own_pages[row], row, n, y, pass.epoch);
  }
  __syncthreads();  // the strands are read: the attention's query may take their place
  if (IsCopying() && layer_index + 1 < p.layer_count) FetchWeights(p, m.layers[(layer_index + 1) % 2], m);
}

__device__ __forceinline__ void LoadOuts(const FewRowsParams& p, const FewRowsLayer& layer, OutTiles& tiles) {
  const TileGroups<1> groups = {{OwnColumn(), kNoGroup}};
  LoadTile<1>(layer.out, p.pitch, p.width, groups, tiles.out);
  LoadTile<1>(layer.residual, p.pitch, p.width, groups, tiles.residual);
  tiles.bias = LoadConstantPair(layer.residual_bias + OwnColumn() + threadIdx.x % 4 * 2);
}

template <int V>
__device__ __forceinline__ void FeedbackOut(const FewRowsParams& p, const LayerState& state,
                                            const OutTiles& tiles, const FewRowsPass& pass,
                                            FewRowsMemory<V>& m) {
  AwaitInput(p.mail.o, p.width, pass, m.linear);
  MultiplyTile<1>(tiles.out, pass.rows, p.pitch, m.linear);
  __syncthreads();
  const int row = threadIdx.x / 4, pair = threadIdx.x % 4, c = 2 * pair, n = OwnColumn() + c;
  if (row >= pass.rows) return;
  const float2 f = SumStrands(m.linear.strands[0], row, pair);
  const float s0 = fmaf(m.gamma[row], m.ctx[row][c], f.x), s1 = fmaf(m.gamma[row], m.ctx[row][c + 1], f.y);
  Post(p.mail.u + (row * p.width + n) / 2, PackBf16(s0 * m.g[row][c], s1 * m.g[row][c + 1]), pass.epoch);
  StoreFeedback(state, m.rows[row], m.own_pages[row], n, s0, p.saturations);
  StoreFeedback(state, m.rows[row], m.own_pages[row], n + 1, s1, p.saturations);
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
__device__ __forceinline__ void ResidualOut(const FewRowsParams& p, const OutTiles& tiles, bool last,
                                            const FewRowsPass& pass, FewRowsMemory<V>& m) {
  AwaitOthers(p, pass);
  AwaitInput(p.mail.u, p.width, pass, m.linear);
  MultiplyTile<1>(tiles.residual, pass.rows, p.pitch, m.linear);
  __syncthreads();
  const int row = threadIdx.x / 4, pair = threadIdx.x % 4, c = 2 * pair;
  if (row >= pass.rows) return;
  const float2 y = SumStrands(m.linear.strands[0], row, pair);
  float* x = m.x[row] + c;
  x[0] += y.x + tiles.bias.x;
  x[1] += y.y + tiles.bias.y;
  const int at = row * p.width + OwnColumn() + c;
  if (last) {
    *reinterpret_cast<float2*>(p.x + at) = make_float2(x[0], x[1]);
  } else {
    PostPair(p.mail.x + at, __float_as_uint(x[0]), __float_as_uint(x[1]), pass.epoch + 1);
  }
}

}  // namespace sessa::cuda
