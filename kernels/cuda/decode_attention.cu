// Both attentions of decode rows, split over the context: each warp takes items (attention_schedule.h),
// streams their tokens from the pages and writes (accumulator, maximum, sum) of the softmax over them.
//
//   feedback: one query as wide as the model; a lane owns columns (i * 32 + lane) * 8 .. + 7, i < V
//   forward:  256 columns of k and v, of one or several key heads; a lane owns 8 columns and, for each of up
//   to
//             GC query heads of its key head, an accumulator
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"

namespace sessa::cuda {
namespace {

constexpr int kWarps = 4;  // of a block of threads; two blocks share a multiprocessor
constexpr int kForwardColumns = 256;
constexpr int kForwardTokens = 8;  // of a stage
constexpr int kStageVectors = 16;  // 16-byte vectors that a lane has in a stage: 8 KB a warp
constexpr int kMaxStages = 3;      // of a warp's ring
constexpr int kForwardStages = 2;  // every shape has room for them
constexpr int kNearRows = 64;  // of batches whose tables are copied to shared memory (two blocks must fit)
constexpr float kNoMaximum = -1e30f;  // less than any score, and its difference to itself is a number
constexpr float kLog2E = 1.4426950408889634f;

// State streams through a ring in shared memory, a private one for each warp, so that loads stay in flight
// while the warp computes. Each lane copies just what it will use itself: no barrier is needed, only its own
// wait.
__device__ __forceinline__ void CopyAsync(uint4* to, const void* from, bool inside) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
               "r"(inside ? 16 : 0)
               : "memory");  // not inside: zeros
}
__device__ __forceinline__ void CommitStage() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of this thread's stages are under way.
template <int kPending>
__device__ __forceinline__ void WaitStage() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void UnpackBf16(const uint4& bits, float (&out)[8]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    out[2 * e] = __uint_as_float(words[e] << 16);
    out[2 * e + 1] = __uint_as_float(words[e] & 0xffff0000u);
  }
}
__device__ __forceinline__ void UnpackFp16(const uint4& bits, float (&out)[8]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[e]));
    out[2 * e] = pair.x;
    out[2 * e + 1] = pair.y;
  }
}
__device__ __forceinline__ void Load8(const float* at, float (&out)[8]) {
  const float4 low = reinterpret_cast<const float4*>(at)[0], high = reinterpret_cast<const float4*>(at)[1];
  out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
  out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}

// A softmax under way, with N numbers of its accumulator in this lane.
template <int N>
struct Softmax {
  float acc[N];
  float max, sum;

  __device__ __forceinline__ void Reset() {
    max = kNoMaximum;
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) acc[i] = 0.0f;
  }
  // Makes room for scores up to new_max.
  __device__ __forceinline__ void Raise(float new_max) {
    if (new_max <= max) return;
    const float factor = Exp2(max - new_max);
    sum *= factor;
#pragma unroll
    for (int i = 0; i < N; ++i) acc[i] *= factor;
    max = new_max;
  }
};

// The leaves of an item so far. The accumulator lies in shared memory: it is touched once in 16 tokens.
struct Running {
  float* acc;  // acc[i * 32] for the lane's number i
  float max, sum;
};

// The order and rounding of these operations are repeated by the merge of fine items (attention_merge.cu).
template <int N>
__device__ __forceinline__ void MergeLeaf(Running& run, const Softmax<N>& leaf, bool first) {
  if (first) {
    run.max = leaf.max;
    run.sum = leaf.sum;
#pragma unroll
    for (int i = 0; i < N; ++i) run.acc[i * 32] = leaf.acc[i];
    return;
  }
  const float max = fmaxf(run.max, leaf.max);
  const float old_part = Exp2(run.max - max), new_part = Exp2(leaf.max - max);
  run.max = max;
  run.sum = __fmaf_rn(leaf.sum, new_part, __fmul_rn(run.sum, old_part));
#pragma unroll
  for (int i = 0; i < N; ++i) {
    run.acc[i * 32] = __fmaf_rn(leaf.acc[i], new_part, __fmul_rn(run.acc[i * 32], old_part));
  }
}

// Where an item lies.
struct Item {
  int row, first, end;  // tokens [first, end) of the row's past
  RowMeta meta;
};

// `index` counts the items of all rows; first_of[r] is the first of row r. Shared memory, or global.
__device__ __forceinline__ Item FindItem(const AttentionParams& p, const int32_t* first_of, int index,
                                         bool fine, bool inclusive) {
  int low = 0, high = p.row_count;  // first_of[low] <= index < first_of[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (first_of[middle] <= index ? low : high) = middle;
  }
  Item item;
  item.row = low;
  item.meta = p.rows[low];
  const int tokens = item.meta.position + (inclusive ? 1 : 0);
  const int length = ItemTokens(tokens, fine);
  item.first = (index - first_of[low]) * length;
  item.end = min(tokens, item.first + length);
  return item;
}

// Sizes of a warp's ring for rows of V vectors a lane.
template <int V>
struct FeedbackRing {
  static constexpr int kTokens = kStageVectors / (2 * V);  // of a stage: kb and s of each
  static constexpr int kStages = V > 4 ? 2 : kMaxStages;   // the accumulator takes more of the memory
};

// One query against U tokens: kb(u, i, numbers) and s(u, i, numbers) give eight numbers of token u, vector i;
// tokens from `valid` on do not count.
template <int V, int U, typename Keys, typename Values>
__device__ __forceinline__ void FeedbackTokens(const float (&q)[V * 8], int valid, const Keys& kb,
                                               const Values& s, Softmax<V * 8>& leaf) {
  float score[U];
#pragma unroll
  for (int u = 0; u < U; ++u) {
    float even = 0.0f, odd = 0.0f;  // two chains
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float numbers[8];
      kb(u, i, numbers);
#pragma unroll
      for (int e = 0; e < 8; e += 2) {
        even = fmaf(numbers[e], q[i * 8 + e], even);
        odd = fmaf(numbers[e + 1], q[i * 8 + e + 1], odd);
      }
    }
    score[u] = even + odd;
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
#pragma unroll
    for (int u = 0; u < U; ++u) score[u] += __shfl_xor_sync(kWholeWarp, score[u], offset);
  }
  float max = leaf.max;
#pragma unroll
  for (int u = 0; u < U; ++u) max = fmaxf(max, score[u]);  // beyond the end: the last token's, again
  leaf.Raise(max);
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const float weight = u < valid ? Exp2(score[u] - leaf.max) : 0.0f;
    leaf.sum += weight;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float numbers[8];
      s(u, i, numbers);
#pragma unroll
      for (int e = 0; e < 8; ++e) leaf.acc[i * 8 + e] = fmaf(weight, numbers[e], leaf.acc[i * 8 + e]);
    }
  }
}

// q = log2(e) D^-1/2 qb of a row, this lane's columns.
template <int V>
__device__ __forceinline__ void LoadQuery(const AttentionParams& p, int row, float (&q)[V * 8]) {
  const int lane = threadIdx.x & 31, width = p.state.width;
  const float scale = kLog2E * rsqrtf(static_cast<float>(width));
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int column = (i * 32 + lane) * 8;
    float numbers[8] = {};
    if (column < width) Load8(p.qb + static_cast<int64_t>(row) * width + column, numbers);
#pragma unroll
    for (int e = 0; e < 8; ++e) q[i * 8 + e] = numbers[e] * scale;
  }
}

// Blocks before the reader's own, whose s is fp16.
template <int V>
__device__ __forceinline__ void ClosedTokens(const AttentionParams& p, const Item& item, int end, uint4* ring,
                                             Running& run) {
  constexpr int U = FeedbackRing<V>::kTokens, kStages = FeedbackRing<V>::kStages;
  const int lane = threadIdx.x & 31, width = p.state.width;
  const int row_bytes = width * 2;
  const int64_t to_s = p.state.s - p.state.kb;
  const char* block = nullptr;  // kb of the block being copied, this lane's first column
  const auto copy = [&](int token, int stage) {
    if (token < end) {
      if ((token & 63) == 0 || block == nullptr) {
        const int64_t page = p.pages[item.meta.page_begin + (token >> 6)];
        block = p.state.pages + page * p.state.page_bytes + p.state.kb + lane * 16;
      }
      const char* row = block + (token & 63) * row_bytes;
      uint4* to = ring + stage * kStageVectors * 32 + lane;
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const char* from = row + min(u, end - 1 - token) * row_bytes;
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const bool inside = (i * 32 + lane) * 8 < width;
          CopyAsync(to + (u * 2 * V + i) * 32, from + i * 512, inside);
          CopyAsync(to + (u * 2 * V + V + i) * 32, from + to_s + i * 512, inside);
        }
      }
    }
    CommitStage();
  };
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) copy(item.first + stage * U, stage);
  float q[V * 8];
  LoadQuery<V>(p, item.row, q);
  int stage = 0;
  for (int leaf_first = item.first; leaf_first < end; leaf_first += kLeafTokens) {
    Softmax<V * 8> leaf;
    leaf.Reset();
    const int leaf_end = min(end, leaf_first + kLeafTokens);
    for (int token = leaf_first; token < leaf_end; token += U) {
      WaitStage<kStages - 1>();
      const uint4* rows = ring + stage * kStageVectors * 32 + lane;
      FeedbackTokens<V, U>(
          q, leaf_end - token,
          [&](int u, int i, float(&out)[8]) { UnpackBf16(rows[(u * 2 * V + i) * 32], out); },
          [&](int u, int i, float(&out)[8]) { UnpackFp16(rows[(u * 2 * V + V + i) * 32], out); }, leaf);
      copy(token + kStages * U, stage);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    MergeLeaf(run, leaf, leaf_first == item.first);
  }
  WaitStage<0>();
}

// The reader's own block, whose s is float32 in its open page.
template <int V>
__device__ __forceinline__ void OpenTokens(const AttentionParams& p, const Item& item, int first,
                                           Running& run) {
  constexpr int U = V > 4 ? 1 : 2;
  float q[V * 8];
  LoadQuery<V>(p, item.row, q);
  const int lane = threadIdx.x & 31, width = p.state.width;
  const int64_t page = p.pages[item.meta.page_begin + (item.meta.position >> 6)];
  const char* kb_plane = p.state.pages + page * p.state.page_bytes + p.state.kb;
  const char* s_plane = p.state.open_pages + item.meta.open_page * p.state.open_page_bytes + p.state.open_s;
  for (int leaf_first = first; leaf_first < item.end; leaf_first += kLeafTokens) {
    Softmax<V * 8> leaf;
    leaf.Reset();
    const int leaf_end = min(item.end, leaf_first + kLeafTokens);
    for (int token = leaf_first; token < leaf_end; token += U) {
      uint4 kb[U][V];
      float s[U][V][8];
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const int64_t row = static_cast<int64_t>(min(token + u, leaf_end - 1) & 63) * width;
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const int column = (i * 32 + lane) * 8;
          kb[u][i] = make_uint4(0, 0, 0, 0);
#pragma unroll
          for (int e = 0; e < 8; ++e) s[u][i][e] = 0.0f;
          if (column >= width) continue;
          kb[u][i] = *reinterpret_cast<const uint4*>(kb_plane + (row + column) * 2);
          Load8(reinterpret_cast<const float*>(s_plane) + row + column, s[u][i]);
        }
      }
      FeedbackTokens<V, U>(
          q, leaf_end - token, [&](int u, int i, float(&out)[8]) { UnpackBf16(kb[u][i], out); },
          [&](int u, int i, float(&out)[8]) {
#pragma unroll
            for (int e = 0; e < 8; ++e) out[e] = s[u][i][e];
          },
          leaf);
    }
    MergeLeaf(run, leaf, leaf_first == item.first);
  }
}

template <int V>
__device__ __forceinline__ void FeedbackItem(const AttentionParams& p, const Item& item, uint4* ring,
                                             float* running, float* out) {
  const int lane = threadIdx.x & 31, width = p.state.width;
  Running run{running + lane, 0.0f, 0.0f};
  const int own_block = item.meta.position & ~63;
  if (item.first < own_block) ClosedTokens<V>(p, item, min(item.end, own_block), ring, run);
  if (item.end > own_block) OpenTokens<V>(p, item, max(item.first, own_block), run);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int column = (i * 32 + lane) * 8;
    if (column >= width) continue;
#pragma unroll
    for (int e = 0; e < 8; e += 4) {
      const float* acc = run.acc + (i * 8 + e) * 32;
      *reinterpret_cast<float4*>(out + column + e) = make_float4(acc[0], acc[32], acc[64], acc[96]);
    }
  }
  if (lane == 0) *reinterpret_cast<float2*>(out + width) = make_float2(run.max, run.sum);
}

// Query heads [pass * GC, ...) of the key heads in 256 columns of k, beginning at `first_column`.
template <int GC>
__device__ __forceinline__ void ForwardItem(const AttentionParams& p, const Item& item, int first_column,
                                            int pass, uint4* ring, float* running, float* out) {
  constexpr int U = kForwardTokens;
  const int lane = threadIdx.x & 31, d = p.head_width, kv = p.state.kv, group = p.heads / p.kv_heads;
  const int column = first_column + lane * 8;
  const bool inside = column < kv;
  const float scale = kLog2E * rsqrtf(static_cast<float>(d));
  const int row_bytes = kv * 2;
  const int64_t to_v = p.state.v - p.state.k;
  const char* block = nullptr;  // k of the block being copied, this lane's first column
  const auto copy = [&](int token, int stage) {
    if (token < item.end) {
      if ((token & 63) == 0 || block == nullptr) {
        const int64_t page = p.pages[item.meta.page_begin + (token >> 6)];
        block = p.state.pages + page * p.state.page_bytes + p.state.k + column * 2;
      }
      const char* row = block + (token & 63) * row_bytes;
      uint4* to = ring + stage * kStageVectors * 32 + lane;
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const char* from = row + min(u, item.end - 1 - token) * row_bytes;
        CopyAsync(to + u * 2 * 32, from, inside);
        CopyAsync(to + (u * 2 + 1) * 32, from + to_v, inside);
      }
    }
    CommitStage();
  };
#pragma unroll
  for (int stage = 0; stage < kForwardStages; ++stage) copy(item.first + stage * U, stage);
  float q[GC][8];
#pragma unroll
  for (int g = 0; g < GC; ++g) {
    const bool valid = inside && pass * GC + g < group;
    const int64_t at = static_cast<int64_t>(item.row) * p.state.width +
                       ((column / d) * group + pass * GC + g) * static_cast<int64_t>(d) + column % d;
    float numbers[8] = {};
    if (valid) Load8(p.q + at, numbers);
#pragma unroll
    for (int e = 0; e < 8; ++e) q[g][e] = numbers[e] * scale;
  }
  Running run[GC];
#pragma unroll
  for (int g = 0; g < GC; ++g) run[g] = {running + g * 8 * 32 + lane, 0.0f, 0.0f};

  int stage = 0;
  for (int leaf_first = item.first; leaf_first < item.end; leaf_first += kLeafTokens) {
    const int leaf_end = min(item.end, leaf_first + kLeafTokens);
    Softmax<8> leaf[GC];
#pragma unroll
    for (int g = 0; g < GC; ++g) leaf[g].Reset();
    for (int token = leaf_first; token < leaf_end; token += U) {
      WaitStage<kForwardStages - 1>();
      const uint4* rows = ring + stage * kStageVectors * 32 + lane;
      float score[U][GC];
#pragma unroll
      for (int u = 0; u < U; ++u) {
        float numbers[8];
        UnpackBf16(rows[u * 2 * 32], numbers);
#pragma unroll
        for (int g = 0; g < GC; ++g) {
          score[u][g] = 0.0f;
#pragma unroll
          for (int e = 0; e < 8; ++e) score[u][g] = fmaf(numbers[e], q[g][e], score[u][g]);
        }
      }
      for (int offset = d / 16; offset > 0; offset >>= 1) {  // over the d / 8 lanes of a head
#pragma unroll
        for (int u = 0; u < U; ++u) {
#pragma unroll
          for (int g = 0; g < GC; ++g) score[u][g] += __shfl_xor_sync(kWholeWarp, score[u][g], offset);
        }
      }
#pragma unroll
      for (int g = 0; g < GC; ++g) {
        float max = leaf[g].max;
#pragma unroll
        for (int u = 0; u < U; ++u) max = fmaxf(max, score[u][g]);
        leaf[g].Raise(max);
      }
#pragma unroll
      for (int u = 0; u < U; ++u) {
        float numbers[8];
        UnpackBf16(rows[(u * 2 + 1) * 32], numbers);
#pragma unroll
        for (int g = 0; g < GC; ++g) {
          const float weight = token + u < leaf_end ? Exp2(score[u][g] - leaf[g].max) : 0.0f;
          leaf[g].sum += weight;
#pragma unroll
          for (int e = 0; e < 8; ++e) leaf[g].acc[e] = fmaf(weight, numbers[e], leaf[g].acc[e]);
        }
      }
      copy(token + kForwardStages * U, stage);
      stage = stage + 1 == kForwardStages ? 0 : stage + 1;
    }
#pragma unroll
    for (int g = 0; g < GC; ++g) MergeLeaf(run[g], leaf[g], leaf_first == item.first);
  }
  WaitStage<0>();

#pragma unroll
  for (int g = 0; g < GC; ++g) {
    const int at = g * kForwardColumns + lane * 8;
#pragma unroll
    for (int e = 0; e < 8; e += 4) {
      const float* acc = run[g].acc + e * 32;
      *reinterpret_cast<float4*>(out + at + e) = make_float4(acc[0], acc[32], acc[64], acc[96]);
    }
    if (at % d == 0) {
      *reinterpret_cast<float2*>(out + GC * kForwardColumns + at / d * 2) =
          make_float2(run[g].max, run[g].sum);
    }
  }
}

// Shared memory of a warp: its ring, and the accumulator of the item under way.
template <int V, int GC>
struct WarpMemory {
  uint4 ring[FeedbackRing<V>::kStages * kStageVectors * 32];
  float running[(V > GC ? V : GC) * 8 * 32];
};

template <int V, int GC>
__global__ void __launch_bounds__(kWarps * 32, 2)
    AttentionItemsKernel(AttentionParams p, AttentionShape shape) {
  extern __shared__ uint4 shared[];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  WarpMemory<V, GC>& memory = reinterpret_cast<WarpMemory<V, GC>*>(shared)[warp];
  PdlWait();
  PdlTrigger();
  const int workers = gridDim.x * kWarps;
  const bool fine = p.header->fine != 0;
  __shared__ int32_t feedback_near[kNearRows + 1], forward_near[kNearRows + 1];
  const int32_t *feedback_first = p.feedback_first, *forward_first = p.forward_first;
  if (p.row_count <= kNearRows) {  // searched for every item
    for (int r = threadIdx.x; r <= p.row_count; r += kWarps * 32) {
      feedback_near[r] = feedback_first[r];
      forward_near[r] = forward_first[r];
    }
    feedback_first = feedback_near;
    forward_first = forward_near;
    __syncthreads();
  }
  const int feedback_items = feedback_first[p.row_count];
  const int forward_items = forward_first[p.row_count] * shape.forward_chunks;
  const int items = feedback_items + forward_items, pairs = min(feedback_items, forward_items);
  const int column_chunks = (p.state.kv + kForwardColumns - 1) / kForwardColumns;
  int next = 0;
  for (int index = blockIdx.x + warp * gridDim.x; index < items; index = next) {
    if (lane == 0) next = workers + atomicAdd(p.next_item, 1);  // its wait is hidden by the item's work
    // Feedback and forward items take turns while there are both: one kind waits for memory, the other
    // computes.
    const bool forward = index < 2 * pairs ? (index & 1) != 0 : forward_items > pairs;
    const int item = index < 2 * pairs ? index >> 1 : index - pairs;
    float* out = p.partials + (forward ? feedback_items + item : item) * shape.partial_floats;
    if (!forward) {
      FeedbackItem<V>(p, FindItem(p, feedback_first, item, fine, false), memory.ring, memory.running, out);
    } else {
      const int chunk = item % shape.forward_chunks;
      ForwardItem<GC>(p, FindItem(p, forward_first, item / shape.forward_chunks, fine, true),
                      chunk % column_chunks * kForwardColumns, chunk / column_chunks, memory.ring,
                      memory.running, out);
    }
    next = __shfl_sync(kWholeWarp, next, 0);
  }
}

template <int V, int GC>
cudaError_t LaunchItems(const AttentionParams& params, const AttentionShape& shape, int32_t multiprocessors,
                        const LaunchContext& context) {
  constexpr int kShared = kWarps * static_cast<int>(sizeof(WarpMemory<V, GC>));
  const auto kernel = AttentionItemsKernel<V, GC>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) return error;
  return LaunchKernel(kernel, dim3(2 * multiprocessors), dim3(kWarps * 32), kShared, context.dependent,
                      context.stream, params, shape);
}

template <int V>
cudaError_t LaunchItems(const AttentionParams& params, const AttentionShape& shape, int32_t multiprocessors,
                        const LaunchContext& context) {
  return shape.group_heads == 1 ? LaunchItems<V, 1>(params, shape, multiprocessors, context)
                                : LaunchItems<V, 4>(params, shape, multiprocessors, context);
}

}  // namespace

AttentionShape PlanAttention(int32_t width, int32_t heads, int32_t kv_heads, bool f32_state) {
  AttentionShape shape;
  const int32_t d = width / heads, group = heads / kv_heads, kv = kv_heads * d;
  shape.fast = !f32_state && width % 8 == 0 && width <= 2048 && d >= 8 && d <= 256 && (d & (d - 1)) == 0;
  shape.group_heads = group == 1 ? 1 : 4;
  const int32_t column_chunks = (kv + kForwardColumns - 1) / kForwardColumns;
  shape.forward_chunks = column_chunks * ((group + shape.group_heads - 1) / shape.group_heads);
  const int32_t forward = shape.group_heads * kForwardColumns;
  const int32_t forward_floats = forward + 2 * (forward / (d > 0 ? d : 1));
  shape.partial_floats = ((width + 2 > forward_floats ? width + 2 : forward_floats) + 3) / 4 * 4;
  return shape;
}

cudaError_t LaunchAttentionItems(const AttentionParams& params, const AttentionShape& shape,
                                 int32_t multiprocessors, const LaunchContext& context) {
  if (params.state.width <= 256) return LaunchItems<1>(params, shape, multiprocessors, context);
  if (params.state.width <= 512) return LaunchItems<2>(params, shape, multiprocessors, context);
  if (params.state.width <= 1024) return LaunchItems<4>(params, shape, multiprocessors, context);
  return LaunchItems<8>(params, shape, multiprocessors, context);
}

}  // namespace sessa::cuda
