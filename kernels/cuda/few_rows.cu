// One kernel for a decode pass of one or two rows, up to the logits. Every multiprocessor runs one block of
// threads; the first D / 8 blocks each own eight columns of the model's width. A layer is six phases, which
// hand rows to each other through mailboxes instead of barriers (mailbox.cuh):
//
//   In        all of x -> LayerNorm -> own columns of abar (posted) and of g (kept)
//   Project   all of abar -> some outputs of [q|k|v|qb|kb|gamma] (posted; k, v, kb to the pages, too)
//   Attend    q, qb of a row -> some items of both attentions (posted)
//   Merge     own columns of all items -> own columns of o (posted) and of ctx (kept)
//   Feedback  all of o -> own columns of f, s (to the pages) and u (posted)
//   Residual  all of u -> own columns of x (posted, for the next layer)
//
// After the last layer all blocks take all of x and make their share of the logits.
//
// Weights and state do not depend on the phases before, so a warp of its own brings them to shared memory
// before they are needed (few_rows_copies.cuh); the eight others compute.
//
// When may a word be written again, a layer later? When all its readers have it, which they show by what they
// post next: a block's items have been awaited before any owner posts its o, owners' own reads are done
// before they post u, and that the others have read abar is awaited by the first owner before it posts x.
// Nothing of the next layer is posted before all owners' x.
#include "kernels/cuda/compiled_code.h"
#include "kernels/cuda/few_rows_attention.cuh"
#include "kernels/cuda/few_rows_copies.cuh"
#include "kernels/cuda/few_rows_head.cuh"
#include "kernels/cuda/few_rows_merge.cuh"
#include "kernels/cuda/few_rows_phases.cuh"

namespace sessa::cuda {
namespace {

template <int V>
__device__ __forceinline__ FewRowsPass Begin(const FewRowsParams& p, FewRowsMemory<V>& m) {
  const int thread = threadIdx.x;
  if (IsCopying()) LoadLayer(p, 0, m);
  if (thread < p.row_count) {
    m.rows[thread] = p.tables.rows[thread];
    m.own_pages[thread] = static_cast<int32_t>(OwnPage(m.rows[thread], p.tables.pages));
  }
  if (thread <= p.row_count) {
    m.feedback_first[thread] = p.tables.feedback_first[thread];
    m.forward_first[thread] = p.tables.forward_first[thread];
  }
  if (thread < kSlots) m.arrived[thread].Init(kFullArrivals), m.slot_free[thread].Init(kReleases);
  if (thread < kHeadSlots) m.head_full[thread].Init(kFullArrivals), m.head_free[thread].Init(kReleases);
  if (thread < 2) m.weights_full[thread].Init(kFullArrivals), m.weights_free[thread].Init(kReleases);
  FenceBarrierInit();
  FenceCopies();
  __syncthreads();
  FewRowsPass pass{0, p.tables.epoch, 0, make_float2(0.0f, 0.0f)};
  while (pass.rows < p.row_count && m.rows[pass.rows].live != 0) ++pass.rows;
  ListItems(p, pass, m);
  if (thread == 0) FindColumns(p, m);
  const int row = thread / kGroup, c = thread % kGroup;
  if (IsOwner(p) && row < pass.rows) {
    const int64_t token = TokenOf(m.rows[row], p.slots, p.vocab);
    const float x = __bfloat162float(static_cast<const bf16*>(p.embed)[token * p.pitch + OwnColumn() + c]);
    m.x[row][c] = x;
    Post(p.mail.x + WordOf(row, OwnColumn() + c), __float_as_uint(x), pass.epoch);
  }
  const ProjectOutputs outputs = OwnProjectOutputs(p, pass.rows);
  if (outputs.any && Rotates(p, outputs.n)) {
    pass.turn = TurnOf(m.rows[outputs.row].position, p.theta[(outputs.n & (p.head_width - 1)) / 2]);
  }
  __syncthreads();
  if (thread == 0) ListStretches(p, m);
  __syncthreads();
  return pass;
}

template <int V, int GC>
__device__ __forceinline__ void Attend(const FewRowsParams& p, FewRowsPass& pass, FewRowsMemory<V>& m) {
  OwnQuery query;
  Columns leaf;
#pragma unroll 1
  for (int i = 0; i < m.stretch_count; ++i) {
    const Stretch at = UnpackStretch(m.stretches[i]);
    const FewRowsItem& item = m.items[at.item];
    const int slot = i % kSlots;
    if (at.from == 0 && (!at.open || item.closed == 0)) AwaitQuery(p, item, pass.epoch, m.attention);
    m.arrived[slot].Wait(pass.parity >> slot & 1);
    pass.parity ^= 1u << slot;
    if (at.newest) AwaitNewest(p, item, pass.epoch, at.count - 1, m.ring[slot]);
    SyncComputing();
    AttendStretch<V, GC>(p, item, at, m.ring[slot], m.attention, query, leaf);
    if (EndsItem(m, at)) PostItem<GC>(p, item, pass.epoch, leaf);
    SyncComputing();
    if (i + kSlots < m.stretch_count) m.slot_free[slot].ArriveAfterMeeting();
  }
}

// The slots whose stretch was the layer's last are free for the next layer's.
template <int V>
__device__ __forceinline__ void ReleaseSlots(FewRowsMemory<V>& m) {
  for (int slot = 0; slot < min(m.stretch_count, kSlots); ++slot) m.slot_free[slot].ArriveAfterMeeting();
}

// All of a pass, by the warps that compute.
template <int V, int GC>
__device__ __forceinline__ void ComputeLayers(const FewRowsParams& p, FewRowsPass& pass,
                                              FewRowsMemory<V>& m) {
  const bool owner = IsOwner(p);
  InAhead in;
  if (owner) {
    LoadIn(p, m.layers[0], m, in);
    SyncComputing();
    ReleaseWeights(kInHalf, m);
  }
#pragma unroll 1
  for (int l = 0; l < p.layer_count; ++l, ++pass.epoch) {
    const FewRowsLayer& layer = m.layers[l % 2];
    const bool last = l + 1 == p.layer_count;
    if (owner) {
      In(p, in, pass, m);
    } else {
      PassWeights(kInHalf, 0, m);
    }
    Project(p, layer, pass, m);
    Attend<V, GC>(p, pass, m);
    if (owner) {
      MergeItems(p, pass, m);
      ReleaseSlots(m);
      TileWeights<1> outs;
      ReadOuts(p, m, outs);
      FeedbackOut(p, layer.state, outs, pass, m);
      const float2 bias = LoadResidualBias(layer);
      in = {};  // nothing of this layer's is kept in registers
      if (!last) LoadIn(p, m.layers[(l + 1) % 2], m, in);
      ResidualOut(p, bias, outs, pass, m);
      if (!last) ReleaseWeights(kInHalf, m);  // all have been at a barrier since
    } else {
      ReleaseSlots(m);
      PassWeights(kOutHalf, 1, m);
      in = {};
    }
  }
  if (p.output_count > 0) Head(p, pass, m);
}

template <int V, int GC>
__global__ void __launch_bounds__(kFewBlock, 1) FewRowsKernel(const __grid_constant__ FewRowsParams p) {
  extern __shared__ uint4 shared[];
  FewRowsMemory<V>& m = *reinterpret_cast<FewRowsMemory<V>*>(shared);
  FewRowsPass pass = Begin(p, m);
  if (IsCopying()) {
    CopyLayers(p, m);
  } else {
    ComputeLayers<V, GC>(p, pass, m);
  }
}

template <int V>
cudaError_t Launch(const FewRowsParams& params, int32_t multiprocessors, cudaStream_t stream) {
  const auto kernel = params.attention.group_heads == 1 ? FewRowsKernel<V, 1> : FewRowsKernel<V, 4>;
  constexpr int kShared = sizeof(FewRowsMemory<V>);
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeCooperative;  // all blocks at once, or an error
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(multiprocessors);
  config.blockDim = dim3(kFewBlock);
  config.dynamicSmemBytes = kShared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, params);
}

// Of a mailbox of x, abar, o or u.
int64_t LineWords(int32_t width) { return int64_t{width} / kGroup * kFewLine; }

}  // namespace

bool FewRowsFits(int32_t width, int32_t heads, int32_t project_outputs, int32_t multiprocessors,
                 const AttentionShape& attention) {
  int device = 0, shared = 0, cooperative = 0;
  bool hopper = false;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device) != cudaSuccess ||
      RunsHopperCode(&hopper) != cudaSuccess) {
    return false;
  }
  const int32_t items = kFewUnits * attention.warps * (1 + attention.forward_chunks);
  return attention.fast && heads > 1 && width <= 1024 && width / kGroup <= multiprocessors &&
         project_outputs <= kFewOutputs * multiprocessors && items / multiprocessors + 2 <= kMaxBlockItems &&
         hopper && cooperative != 0 && shared >= static_cast<int>(sizeof(FewRowsMemory<4>));
}

FewRowsMail FewRowsMailAt(void* memory, int32_t width, int32_t y_pitch) {
  FewRowsMail mail;
  mail.x = static_cast<Word*>(memory);
  mail.abar = mail.x + LineWords(width);
  mail.o = mail.abar + LineWords(width);
  mail.u = mail.o + LineWords(width);
  mail.y = mail.u + LineWords(width);
  mail.parts = mail.y + int64_t{kFewRows} * y_pitch;
  return mail;
}

int64_t FewRowsMailBytes(int32_t width, int32_t y_pitch, const AttentionShape& attention) {
  const FewRowsMail mail = FewRowsMailAt(nullptr, width, y_pitch);
  const int64_t items = int64_t{kFewUnits} * attention.warps * (1 + attention.forward_chunks);
  return (mail.parts - mail.x + items * attention.partial_floats) * static_cast<int64_t>(sizeof(Word));
}

cudaError_t LaunchFewRows(const FewRowsParams& params, int32_t multiprocessors, cudaStream_t stream) {
  if (params.width <= 256) return Launch<1>(params, multiprocessors, stream);
  if (params.width <= 512) return Launch<2>(params, multiprocessors, stream);
  return Launch<4>(params, multiprocessors, stream);
}

}  // namespace sessa::cuda
