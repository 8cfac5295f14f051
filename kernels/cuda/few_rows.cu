// One kernel for all layers of a decode pass of one or two rows. Every multiprocessor runs one block of
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
// Weights and state do not depend on the phases before, so they are under way before they are needed: the
// projections' weights and the first stretches of state on their way to shared memory, the other weights in
// the L2 cache a layer ahead, then in registers a phase ahead.
//
// When may a word be written again, a layer later? When all its readers have it, which they show by what they
// post next: a block's items have been awaited before any owner posts its o, owners' own reads are done
// before they post u, and that the others have read abar is awaited by the first owner before it posts x.
// Nothing of the next layer is posted before all owners' x.
#include "kernels/cuda/compiled_code.h"
#include "kernels/cuda/few_rows_attention.cuh"
#include "kernels/cuda/few_rows_merge.cuh"
#include "kernels/cuda/few_rows_phases.cuh"

namespace sessa::cuda {
namespace {

template <int V>
__device__ __forceinline__ FewRowsPass Begin(const FewRowsParams& p, FewRowsMemory<V>& m) {
  const int thread = threadIdx.x;
  LoadLayer(p, 0, m);
  if (thread < p.row_count) {
    m.rows[thread] = p.rows[thread];
    m.own_pages[thread] = static_cast<int32_t>(OwnPage(m.rows[thread], p.pages));
  }
  if (thread <= p.row_count) {
    m.feedback_first[thread] = p.feedback_first[thread];
    m.forward_first[thread] = p.forward_first[thread];
  }
  if (thread < kSlots) m.arrived[thread].Init(kFullArrivals);
  if (thread == kSlots) m.project_arrived.Init(kFullArrivals);
  if (thread <= kSlots) FenceBarrierInit();
  FenceCopies();
  __syncthreads();
  if (IsCopying()) FetchWeights(p, m.layers[0], m);
  FewRowsPass pass{0, p.header->epoch, 0};
  while (pass.rows < p.row_count && m.rows[pass.rows].live != 0) ++pass.rows;
  ListItems(p, pass, m);
  if (thread == 0) FindColumns(p, m);
  const int row = thread / kGroup, c = thread % kGroup;
  if (IsOwner(p) && row < pass.rows) {
    const int64_t at = static_cast<int64_t>(row) * p.width + OwnColumn() + c;
    m.x[row][c] = p.x[at];
    Post(p.mail.x + at, __float_as_uint(m.x[row][c]), pass.epoch);
  }
  __syncthreads();
  return pass;
}

// The first kSlots stretches' copies are under way.
template <int V, int GC>
__device__ __forceinline__ void Attend(const FewRowsParams& p, const LayerState& state, FewRowsPass& pass,
                                       FewRowsMemory<V>& m) {
  Columns leaf;
  int slot = 0;
  Stretch ahead = FirstStretch(m);
  for (int i = 0; i < kSlots; ++i) ahead = NextStretch(m, ahead);
#pragma unroll 1
  for (Stretch at = FirstStretch(m); at.item < m.item_count; at = NextStretch(m, at)) {
    const FewRowsItem item = m.items[at.item];
    if (at.from == 0 && (!at.open || item.closed == 0)) AwaitQuery(p, item, pass.epoch, m.attention);
    m.arrived[slot].Wait(pass.parity >> slot & 1);
    pass.parity ^= 1u << slot;
    if (EndsWithNewest(p, m, at)) {
      AwaitNewest(p, item, pass.epoch, at.count - 1, m.ring[slot]);
    }
    __syncthreads();
    AttendStretch<V, GC>(p, item, at, m.ring[slot], m.attention, leaf);
    if (EndsItem(m, at)) PostItem<GC>(p, item, pass.epoch, leaf);
    __syncthreads();
    if (IsCopying()) CopyStretch(p, state, ahead, slot, m);
    ahead = NextStretch(m, ahead);
    slot = (slot + 1) % kSlots;
  }
}

template <int V>
__device__ __forceinline__ void CopyFirstStretches(const FewRowsParams& p, const LayerState& state,
                                                   FewRowsMemory<V>& m) {
  Stretch at = FirstStretch(m);
#pragma unroll 1
  for (int slot = 0; slot < kSlots; ++slot) {
    CopyStretch(p, state, at, slot, m);
    at = NextStretch(m, at);
  }
}

template <int V, int GC>
__global__ void __launch_bounds__(kFewThreads, 1) FewRowsKernel(const __grid_constant__ FewRowsParams p) {
  extern __shared__ uint4 shared[];
  FewRowsMemory<V>& m = *reinterpret_cast<FewRowsMemory<V>*>(shared);
  FewRowsPass pass = Begin(p, m);
  const bool owner = IsOwner(p);
  InTile in;
  OutTiles outs;
  if (owner) LoadIn(p, m.layers[0], in);
#pragma unroll 1
  for (int l = 0; l < p.layer_count; ++l, ++pass.epoch) {
    const FewRowsLayer& layer = m.layers[l % 2];
    const bool last = l + 1 == p.layer_count;
    if (IsCopying()) CopyFirstStretches(p, layer.state, m);
    if (owner) {
      NormRows(p, layer, pass, m);
      In(p, in, pass, m);
    }
    Project(p, l, pass, m);
    Attend<V, GC>(p, layer.state, pass, m);
    if (!owner) continue;
    LoadOuts(p, layer, outs);
    MergeItems(p, pass, m);
    FeedbackOut(p, layer.state, outs, pass, m);
    if (!last) LoadIn(p, m.layers[(l + 1) % 2], in);
    ResidualOut(p, outs, last, pass, m);
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
  config.blockDim = dim3(kFewThreads);
  config.dynamicSmemBytes = kShared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, params);
}

// Of each kind of mailbox, in words.
int64_t WideWords(int32_t width) { return int64_t{kFewRows} * width; }

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
  mail.abar = mail.x + WideWords(width);
  mail.o = mail.abar + WideWords(width) / 2;
  mail.u = mail.o + WideWords(width) / 2;
  mail.y = mail.u + WideWords(width) / 2;
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
