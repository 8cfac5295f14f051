// The warp of the few-rows kernel that copies: it brings weights and state to shared memory ahead of the
// warps that compute, and the next layer's weights to the L2 cache.
//
// The weights' memory has two halves of 16 outputs. In a layer each holds first one thing, then another:
//
//   kOutHalf: half of the projections, then out_proj and W_out
//   kInHalf:  W_in, then the other half of the projections
//
// so that a half's barriers complete twice a layer, with parities 0 and 1. Weights of blocks that own no
// columns are missing there, but their barriers complete all the same.
#pragma once

#include "kernels/cuda/few_rows_items.cuh"

namespace sessa::cuda {

template <int V>
__device__ __forceinline__ void LoadLayer(const FewRowsParams& p, int layer, FewRowsMemory<V>& m) {
  static_assert(sizeof(FewRowsLayer) % 8 == 0 && sizeof(FewRowsLayer) / 8 <= 32);
  const int lane = threadIdx.x % 32;
  if (layer < p.layer_count && lane < static_cast<int>(sizeof(FewRowsLayer) / 8)) {
    reinterpret_cast<int64_t*>(&m.layers[layer % 2])[lane] =
        reinterpret_cast<const int64_t*>(p.layers + layer)[lane];
  }
  __syncwarp();
}

__device__ __forceinline__ void PrefetchRows(const void* weight, int first, int outputs, int pitch) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (first >= outputs) return;
  const bf16* at = static_cast<const bf16*>(weight) + static_cast<int64_t>(first) * pitch;
  const int bytes = min(kGroup, outputs - first) * pitch * 2;
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void PrefetchLine(const float* at) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at) : "memory");
}

// This block's weights of a layer to the L2 cache, a lane eight outputs or columns.
__device__ __forceinline__ void PrefetchLayer(const FewRowsParams& p, const FewRowsLayer& layer) {
  const int lane = threadIdx.x % 32, own = OwnColumn();
  if (lane < kFewOutputs / kGroup && ProjectGroup(lane) < p.project_outputs) {
    PrefetchRows(layer.project, ProjectGroup(lane), p.project_outputs, p.pitch);
    PrefetchLine(layer.project_bias + ProjectGroup(lane));
  }
  if (!IsOwner(p)) return;
  if (lane == 4 || lane == 5) PrefetchRows(layer.in, own + (lane == 5 ? p.width : 0), 2 * p.width, p.pitch);
  if (lane == 6) PrefetchRows(layer.out, own, p.width, p.pitch);
  if (lane == 7) PrefetchRows(layer.residual, own, p.width, p.pitch);
  if (lane == 8) PrefetchLine(layer.norm_weight + own);
  if (lane == 9) PrefetchLine(layer.norm_bias + own);
  if (lane == 10 || lane == 11) PrefetchLine(layer.in_bias + own + (lane == 11 ? p.width : 0));
  if (lane == 12) PrefetchLine(layer.residual_bias + own);
}

// Two of this block's tiles of the logits' weights to the L2 cache, and the last LayerNorm.
__device__ __forceinline__ void PrefetchHead(const FewRowsParams& p, int first_tile) {
  const int lane = threadIdx.x % 32;
  if (p.output_count == 0) return;
  if (lane < 4) PrefetchRows(p.head, HeadTile(first_tile + lane / 2) + lane % 2 * kGroup, p.vocab, p.pitch);
  if (lane == 4 && IsOwner(p)) PrefetchLine(p.norm_weight + OwnColumn());
  if (lane == 5 && IsOwner(p)) PrefetchLine(p.norm_bias + OwnColumn());
}

// The logits' weights, tile after tile.
template <int V>
__device__ __forceinline__ void CopyHead(const FewRowsParams& p, FewRowsMemory<V>& m) {
  const int lane = threadIdx.x % 32, bytes = p.pitch * 2;
#pragma unroll 1
  for (int i = 0; HeadTile(i) < p.vocab; ++i) {
    const int slot = i % kHeadSlots, outputs = min(kHeadOutputs, p.vocab - HeadTile(i));
    if (i >= kHeadSlots) m.head_free[slot].Wait((i / kHeadSlots - 1) & 1);
    if (lane == 0) ExpectBytes(&m.head_full[slot], outputs * bytes);
    __syncwarp();
    if (lane < outputs) {
      CopyBytes<false>(reinterpret_cast<char*>(HeadWeights(m, slot) + lane),
                       static_cast<const char*>(p.head) + static_cast<int64_t>(HeadTile(i) + lane) * bytes,
                       bytes, &m.head_full[slot]);
    }
    EndCopies(&m.head_full[slot]);
  }
}

// A half of the weights: output(lane) of a matrix of `outputs` outputs, or of two, to row `lane` of the half.
template <int V, typename Output>
__device__ __forceinline__ void CopyHalf(const FewRowsParams& p, int half, const void* first_matrix,
                                         const void* last_matrix, int outputs, const Output& output,
                                         FewRowsMemory<V>& m) {
  const int lane = threadIdx.x % 32, bytes = p.pitch * 2;
  const int64_t from = output(lane);
  const bool any = lane < kFewOutputs / 2 && from < outputs;
  const int count = __popc(__ballot_sync(kWholeWarp, any));
  if (lane == 0) ExpectBytes(&m.weights_full[half], count * bytes);
  __syncwarp();
  if (any) {
    const void* matrix = lane < kGroup ? first_matrix : last_matrix;
    CopyBytes<false>(reinterpret_cast<char*>(m.weights[half * kFewOutputs / 2 + lane]),
                     static_cast<const char*>(matrix) + from * bytes, bytes, &m.weights_full[half]);
  }
  EndCopies(&m.weights_full[half]);
}
template <int V>
__device__ __forceinline__ void CopyProject(const FewRowsParams& p, const FewRowsLayer& layer, int half,
                                            FewRowsMemory<V>& m) {
  CopyHalf(
      p, half, layer.project, layer.project, p.project_outputs,
      [&](int lane) { return ProjectGroup(2 * half + lane / kGroup) + lane % kGroup; }, m);
}
template <int V>
__device__ __forceinline__ void CopyIn(const FewRowsParams& p, const FewRowsLayer& layer,
                                       FewRowsMemory<V>& m) {
  CopyHalf(
      p, kInHalf, layer.in, layer.in, IsOwner(p) ? 2 * p.width : 0,
      [&](int lane) { return OwnColumn() + lane % kGroup + (lane < kGroup ? 0 : p.width); }, m);
}
template <int V>
__device__ __forceinline__ void CopyOuts(const FewRowsParams& p, const FewRowsLayer& layer,
                                         FewRowsMemory<V>& m) {
  CopyHalf(
      p, kOutHalf, layer.out, layer.residual, IsOwner(p) ? p.width : 0,
      [&](int lane) { return OwnColumn() + lane % kGroup; }, m);
}

// Stretches [first, end) of a layer's state, each to its slot as soon as that is free.
template <int V>
__device__ __forceinline__ void CopyStretches(const FewRowsParams& p, const LayerState& state, int first,
                                              int end, uint32_t& parity, FewRowsMemory<V>& m) {
#pragma unroll 1
  for (int i = first; i < min(end, m.stretch_count); ++i) {
    const int slot = i % kSlots;
    m.slot_free[slot].Wait(parity >> slot & 1);
    parity ^= 1u << slot;
    CopyStretch(p, state, UnpackStretch(m.stretches[i]), slot, m);
  }
}

// All of a pass. Layer 0 is in m.layers.
template <int V>
__device__ __forceinline__ void CopyLayers(const FewRowsParams& p, FewRowsMemory<V>& m) {
  PrefetchLayer(p, m.layers[0]);
  CopyIn(p, m.layers[0], m);
  CopyProject(p, m.layers[0], kOutHalf, m);
  uint32_t parity = ~0u;  // of slot_free: the slots are free at first
  CopyStretches(p, m.layers[0].state, 0, kSlots, parity, m);
#pragma unroll 1
  for (int l = 0; l < p.layer_count; ++l) {
    const FewRowsLayer& layer = m.layers[l % 2];
    const FewRowsLayer& next = m.layers[(l + 1) % 2];
    const bool last = l + 1 == p.layer_count;
    m.weights_free[kInHalf].Wait(0);
    CopyProject(p, layer, kInHalf, m);
    LoadLayer(p, l + 1, m);  // nobody is in the layer before this one any more
    m.weights_free[kOutHalf].Wait(0);
    CopyOuts(p, layer, m);
    m.weights_free[kInHalf].Wait(1);
    if (!last) {
      CopyIn(p, next, m);
      PrefetchLayer(p, next);
    }
    if (p.layer_count - l <= kHeadLayers) PrefetchHead(p, 2 * (kHeadLayers - (p.layer_count - l)));
    CopyStretches(p, layer.state, kSlots, kMaxStretches, parity, m);
    if (!last) CopyStretches(p, next.state, 0, kSlots, parity, m);
    m.weights_free[kOutHalf].Wait(1);
    if (!last) CopyProject(p, next, kOutHalf, m);
  }
  if (p.output_count > 0) CopyHead(p, m);  // nobody is in the attentions any more: the ring is free
}

}  // namespace sessa::cuda
