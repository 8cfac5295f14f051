// Both attentions of decode rows in one launch. A block of threads on every multiprocessor has two engines,
// one for the feedback and one for the forward attention, each of some warps that compute and one that copies
// state to their ring (decode_ring.cuh), across the ends of items, so that memory is never idle. Items are
// dealt from a counter; the engine that finishes a row's last part merges it (decode_merge.cuh).
#include <algorithm>

#include "kernels/cuda/decode_feedback.cuh"
#include "kernels/cuda/decode_forward.cuh"
#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/launch.cuh"

namespace sessa::cuda {
namespace {

constexpr int kHelperWarps = 4;  // for each engine one that copies and one that deals
__host__ __device__ constexpr int ThreadsOf(int warps) {
  return (2 * warps + kHelperWarps + kMergeWarps) * 32;
}
constexpr int kMaxThreads = ThreadsOf(kMaxLeaves);

// The copying warp. State of earlier steps may be copied before the kernels in front of this one have ended;
// what they write of it is the row's own token, which only the forward attention reads.
template <typename Kind>
__device__ __forceinline__ void CopyItems(const AttentionParams& p, const Engine& engine) {
  ItemQueue& queue = engine.control->queue;
  RingPlace place{0};
  for (int n = 0;; ++n) {
    const int entry = n % ItemQueue::kDepth;
    queue.full[entry].Wait(n / ItemQueue::kDepth & 1);
    const AttentionItem item = queue.items[entry];
    if (item.row < 0) break;
    if (Kind::kInclusive && item.end > item.position) PdlWait();
    if (item.leaf_begin < item.leaves) {
      ForChunkRows<Kind::kTokens, Kind::kOpenTokens>(item, engine.warps, [&](int row, int end, bool open) {
        const int each = open ? Kind::kOpenTokens : Kind::kTokens;
        for (int leaf = item.leaf_begin; leaf < item.leaf_end; ++leaf) {
          const int token = row + leaf * each, count = min(each, end - token);
          if (count > 0) {
            const int block = (token - item.first) / kBlockTokens;
            const int64_t page = block < ItemQueue::kPages ? queue.pages[entry][block]
                                                           : p.pages[item.page_begin + token / kBlockTokens];
            engine.control->empty[place.slot].Wait(place.Use() ^ 1);
            Kind::Copy(p, item, page, token, count, open, engine.ring + place.slot * Kind::kSlotBytes,
                       &engine.control->full[place.slot]);
          }
          place.Advance(1, engine.slots);
        }
      });
    }
    queue.empty[entry].ArriveAsWarp();
  }
  PdlWait();
}

// A computing warp, `warp` of its engine.
template <typename Kind>
__device__ __forceinline__ void ComputeItems(const AttentionParams& p, const Engine& engine, int warp) {
  const bool fine = p.header->fine != 0;  // then an item has one leaf, which warp 0 computes
  ItemQueue& queue = engine.control->queue;
  Handover& handover = engine.control->handover;
  RingPlace place{fine ? 0 : warp};
  int posted = 0;
  for (int n = 0;; ++n) {
    const int entry = n % ItemQueue::kDepth;
    queue.full[entry].Wait(n / ItemQueue::kDepth & 1);
    const AttentionItem item = queue.items[entry];
    queue.empty[entry].ArriveAsWarp();
    if (item.row >= 0 && item.leaf_begin >= item.leaves) continue;
    if (item.row >= 0 && (!fine || warp == 0)) {
      Kind::Leaf(p, engine, item, posted, item.leaf_begin + warp, warp, fine ? 1 : engine.warps, place);
    } else {
      handover.AwaitEmpty(posted);
    }
    handover.Post(item, posted, warp == 0);
    if (item.row < 0) return;
    ++posted;
  }
}

// Rows without a past have ctx = 0.
__device__ __forceinline__ void ClearEmptyRows(const AttentionParams& p, int thread, int threads) {
  for (int row = blockIdx.x; row < p.row_count; row += gridDim.x) {
    if (p.feedback_runs[row + 1] > p.feedback_runs[row]) continue;
    for (int c = thread; c < p.state.width; c += threads) {
      p.ctx[static_cast<int64_t>(row) * p.state.width + c] = 0.0f;
    }
  }
}

// Registers of a thread from here on: warps that copy and deal leave theirs to those that compute and merge.
// Only sm_90a has the instruction, and only with kMaxLeaves warps are the computing ones whole groups of
// four.
template <int kRegisters>
__device__ __forceinline__ void SetRegisters() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int kAtStart = 65536 / kMaxThreads;
  if constexpr (kRegisters >= kAtStart) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
  }
#endif
}

// How a block's shared memory is laid out.
struct BlockLayout {
  int feedback_ring, forward_ring, feedback_leaves, forward_leaves, forward_sums, bytes;

  __host__ __device__ BlockLayout(int v, int group_heads, int head_width, int warps, int feedback_slots,
                                  int forward_slots) {
    const int feedback_slot = v == 8 ? Feedback<8>::kSlotBytes : Feedback<1>::kSlotBytes;
    feedback_ring = 0;
    forward_ring = feedback_ring + feedback_slots * feedback_slot;
    feedback_leaves = forward_ring + forward_slots * Forward<1>::kSlotBytes;
    forward_leaves = feedback_leaves + warps * v * 256 * 4;
    forward_sums = forward_leaves + warps * group_heads * kForwardColumns * 4;
    bytes = forward_sums + warps * group_heads * kForwardColumns / head_width * 8;
  }
};

template <int V, int GC>
__global__ void __launch_bounds__(kMaxThreads, 1)
    DecodeAttentionKernel(AttentionParams p, AttentionShape shape) {
  constexpr int kHelperRegisters = 64, kMergeRegisters = 144, kFeedbackRegisters = V == 8 ? 176 : 152,
                kForwardRegisters = V == 8 ? 128 : 152;
  static_assert((kHelperRegisters + kMergeRegisters + kFeedbackRegisters + kForwardRegisters) * 128 == 65536);
  using ForwardItems = Forward<GC, V == 8 ? 2 : 4>;
  extern __shared__ __align__(128) char memory[];
  __shared__ EngineControl controls[2];
  __shared__ float2 feedback_sums[kMaxLeaves];
  const BlockLayout layout(V, GC, p.head_width, shape.warps, shape.feedback_slots, shape.forward_slots);
  const int warp = threadIdx.x >> 5, warps = shape.warps;
  if (threadIdx.x == 0) {
    for (EngineControl& control : controls) {
      control.queue.Init(warps + 1);
      control.handover.Init(warps, kMergeWarps);
      for (int i = 0; i < kMaxSlots; ++i) {
        control.full[i].Init(kFullArrivals);
        control.empty[i].Init(kWarpArrivals);
      }
    }
    FenceBarrierInit();
  }
  __syncthreads();
  const Engine feedback{
      &controls[0],  memory + layout.feedback_ring, reinterpret_cast<float*>(memory + layout.feedback_leaves),
      feedback_sums, shape.feedback_slots,          warps};
  const Engine forward{&controls[1],
                       memory + layout.forward_ring,
                       reinterpret_cast<float*>(memory + layout.forward_leaves),
                       reinterpret_cast<float2*>(memory + layout.forward_sums),
                       shape.forward_slots,
                       warps};
  // With few items, feedback and forward go to different multiprocessors.
  const int first = blockIdx.x, first_forward = gridDim.x - 1 - blockIdx.x;
  if (warp >= 2 * warps + kHelperWarps) {
    SetRegisters<kMergeRegisters>();
    MergeItems<Feedback<V>, ForwardItems>(p, shape, feedback, forward, warp - 2 * warps - kHelperWarps);
  } else if (warp >= 2 * warps) {
    SetRegisters<kHelperRegisters>();
    switch (warp - 2 * warps) {
      case 0:
        return CopyItems<Feedback<V>>(p, feedback);
      case 1:
        return CopyItems<ForwardItems>(p, forward);
      case 2:
        return DealItems<Feedback<V>>(p, shape, feedback, first, p.next_item);
      default:
        return DealItems<ForwardItems>(p, shape, forward, first_forward, p.next_item + 1);
    }
  } else if (warp < warps) {
    SetRegisters<kFeedbackRegisters>();
    PdlWait();
    PdlTrigger();
    ClearEmptyRows(p, threadIdx.x, warps * 32);
    ComputeItems<Feedback<V>>(p, feedback, warp);
  } else {
    SetRegisters<kForwardRegisters>();
    PdlWait();
    PdlTrigger();
    ComputeItems<ForwardItems>(p, forward, warp - warps);
  }
}

template <int V, int GC>
cudaError_t Launch(const AttentionParams& params, const AttentionShape& shape, int32_t multiprocessors,
                   const LaunchContext& context) {
  const auto kernel = DecodeAttentionKernel<V, GC>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
  if (error != cudaSuccess) return error;
  return LaunchKernel(kernel, dim3(multiprocessors), dim3(ThreadsOf(shape.warps)), shape.shared_bytes,
                      context.dependent, context.stream, params, shape);
}

template <int V>
cudaError_t Launch(const AttentionParams& params, const AttentionShape& shape, int32_t multiprocessors,
                   const LaunchContext& context) {
  return shape.group_heads == 1 ? Launch<V, 1>(params, shape, multiprocessors, context)
                                : Launch<V, 4>(params, shape, multiprocessors, context);
}

int VectorsOf(int32_t width) { return width <= 256 ? 1 : width <= 512 ? 2 : width <= 1024 ? 4 : 8; }

}  // namespace

AttentionShape PlanAttention(int32_t width, int32_t heads, int32_t kv_heads, bool f32_state,
                             int64_t shared_limit) {
  AttentionShape shape;
  const int32_t d = width / heads, group = heads / kv_heads, kv = kv_heads * d;
  if (f32_state || width % 8 != 0 || width > 2048 || d < 8 || d > 256 || (d & (d - 1)) != 0) return shape;
  shape.group_heads = group == 1 ? 1 : 4;
  const int32_t column_chunks = (kv + kForwardColumns - 1) / kForwardColumns;
  shape.forward_chunks = column_chunks * ((group + shape.group_heads - 1) / shape.group_heads);
  const int32_t forward = shape.group_heads * kForwardColumns;
  const int32_t floats = std::max(width + 2 * kLevels * ((width + kSumColumns - 1) / kSumColumns),
                                  forward + 2 * kLevels * (forward / d));
  shape.partial_floats = (floats + 3) / 4 * 4;
  // The deepest rings that fit; fewer warps where even the shallowest do not.
  constexpr int64_t kStatic = 2 * sizeof(EngineControl) + 256;
  for (const int32_t warps : {kMaxLeaves, kMaxLeaves / 2}) {
    for (int32_t slots = kMaxSlots; slots >= warps; slots -= warps) {
      for (int32_t forward_slots = kMaxSlots; forward_slots >= warps; forward_slots -= warps) {
        const BlockLayout layout(VectorsOf(width), shape.group_heads, d, warps, slots, forward_slots);
        if (layout.bytes + kStatic > shared_limit) continue;
        shape.fast = true;
        shape.warps = warps;
        shape.feedback_slots = slots;
        shape.forward_slots = forward_slots;
        shape.shared_bytes = layout.bytes;
        return shape;
      }
    }
  }
  return shape;
}

cudaError_t LaunchDecodeAttention(const AttentionParams& params, const AttentionShape& shape,
                                  int32_t multiprocessors, const LaunchContext& context) {
  switch (VectorsOf(params.state.width)) {
    case 1:
      return Launch<1>(params, shape, multiprocessors, context);
    case 2:
      return Launch<2>(params, shape, multiprocessors, context);
    case 4:
      return Launch<4>(params, shape, multiprocessors, context);
    default:
      return Launch<8>(params, shape, multiprocessors, context);
  }
}

}  // namespace sessa::cuda
