// Both attentions of decode rows, split over the context: each warp takes items (attention_schedule.h), streams
// their tokens from the pages and writes (accumulator, maximum, sum) of the softmax over them.
//
//   feedback: one query as wide as the model; a lane owns columns (i * 32 + lane) * 8 .. + 7, i < V
//   forward:  256 columns of k and v, of one or several key heads; a lane owns 8 columns and, for each of up to
//             GC query heads of its key head, an accumulator
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"

namespace sessa::cuda {
namespace {

constexpr int kWarps = 4;         // of a block of threads; two blocks share a multiprocessor
constexpr int kTokensAhead = 4;   // feedback: tokens whose loads are issued before the first is used
constexpr int kForwardAhead = 8;  // forward
constexpr int kForwardColumns = 256;
constexpr float kNoMaximum = -1e30f;  // less than any score, and its difference to itself is a number
constexpr float kLog2E = 1.4426950408889634f;

// State is read once: past the first cache, and by whole lines. Not through the read-only path, because kernels of
// the same graph write it.
__device__ __forceinline__ uint4 LoadState(const void* at) {
  uint4 r;
  asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "l"(at));
  return r;
}

struct HalfVector {  // eight numbers as they lie in memory
  uint4 bits;
};
struct FloatVector {
  float4 low, high;
};

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

// s of a closed block (fp16), or of the reader's own block (float32, from the open page).
struct ClosedRows {
  using Vector = HalfVector;
  static constexpr int kBytes = 2;
  __device__ static Vector Load(const char* at) { return {LoadState(at)}; }
  __device__ static Vector Zero() { return {make_uint4(0, 0, 0, 0)}; }
  __device__ static void Unpack(const Vector& v, float (&out)[8]) { UnpackFp16(v.bits, out); }
};
struct OpenRows {
  using Vector = FloatVector;
  static constexpr int kBytes = 4;
  __device__ static Vector Load(const char* at) {
    return {reinterpret_cast<const float4*>(at)[0], reinterpret_cast<const float4*>(at)[1]};
  }
  __device__ static Vector Zero() { return {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)}; }
  __device__ static void Unpack(const Vector& v, float (&out)[8]) {
    out[0] = v.low.x, out[1] = v.low.y, out[2] = v.low.z, out[3] = v.low.w;
    out[4] = v.high.x, out[5] = v.high.y, out[6] = v.high.z, out[7] = v.high.w;
  }
};

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
    const float factor = exp2f(max - new_max);
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
  const float old_part = exp2f(run.max - max), new_part = exp2f(leaf.max - max);
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

// `index` counts the items of all rows; first_of[r] is the first of row r.
__device__ __forceinline__ Item FindItem(const AttentionParams& p, const int32_t* first_of, int index, bool fine,
                                         bool inclusive) {
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

template <int V, int U, typename Rows>
__device__ __forceinline__ void FeedbackTokens(const AttentionParams& p, const Item& item, int token, int end,
                                               const float (&q)[V * 8], Softmax<V * 8>& leaf) {
  const int lane = threadIdx.x & 31, width = p.state.width;
  const int page = p.pages[item.meta.page_begin + (token >> 6)];
  const char* kb_plane = p.state.pages + page * p.state.page_bytes + p.state.kb;
  const char* s_plane = sizeof(typename Rows::Vector) == sizeof(HalfVector)
                            ? p.state.pages + page * p.state.page_bytes + p.state.s
                            : p.state.open_pages + item.meta.open_page * p.state.open_page_bytes + p.state.open_s;
  uint4 kb[U][V];
  typename Rows::Vector s[U][V];
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const int64_t at = static_cast<int64_t>(min(token + u, end - 1) & 63) * width;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int column = (i * 32 + lane) * 8;
      kb[u][i] = column < width ? LoadState(kb_plane + (at + column) * 2) : make_uint4(0, 0, 0, 0);
    }
  }
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const int64_t at = static_cast<int64_t>(min(token + u, end - 1) & 63) * width;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int column = (i * 32 + lane) * 8;
      s[u][i] = column < width ? Rows::Load(s_plane + (at + column) * Rows::kBytes) : Rows::Zero();
    }
  }
  float score[U];
#pragma unroll
  for (int u = 0; u < U; ++u) {
    score[u] = 0.0f;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float numbers[8];
      UnpackBf16(kb[u][i], numbers);
#pragma unroll
      for (int e = 0; e < 8; ++e) score[u] = fmaf(numbers[e], q[i * 8 + e], score[u]);
    }
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
    const float weight = token + u < end ? exp2f(score[u] - leaf.max) : 0.0f;
    leaf.sum += weight;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float numbers[8];
      Rows::Unpack(s[u][i], numbers);
#pragma unroll
      for (int e = 0; e < 8; ++e) leaf.acc[i * 8 + e] = fmaf(weight, numbers[e], leaf.acc[i * 8 + e]);
    }
  }
}

template <int V>
__device__ void FeedbackItem(const AttentionParams& p, const Item& item, float* running, float* out) {
  const int lane = threadIdx.x & 31, width = p.state.width;
  const float scale = kLog2E * rsqrtf(static_cast<float>(width));
  float q[V * 8];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int column = (i * 32 + lane) * 8;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      q[i * 8 + e] = column < width ? p.qb[static_cast<int64_t>(item.row) * width + column + e] * scale : 0.0f;
    }
  }
  const int own_block = item.meta.position & ~63;
  Running run{running + lane, 0.0f, 0.0f};
  for (int leaf_first = item.first; leaf_first < item.end; leaf_first += kLeafTokens) {
    const int leaf_end = min(item.end, leaf_first + kLeafTokens);
    Softmax<V * 8> leaf;
    leaf.Reset();
    if (leaf_first < own_block) {
      for (int token = leaf_first; token < leaf_end; token += kTokensAhead) {
        FeedbackTokens<V, (V > 4 ? kTokensAhead / 2 : kTokensAhead), ClosedRows>(p, item, token, leaf_end, q, leaf);
        if constexpr (V > 4) {
          if (token + kTokensAhead / 2 < leaf_end) {
            FeedbackTokens<V, kTokensAhead / 2, ClosedRows>(p, item, token + kTokensAhead / 2, leaf_end, q, leaf);
          }
        }
      }
    } else {
      constexpr int kAhead = V > 4 ? 1 : 2;  // float32 rows take twice the registers
      for (int token = leaf_first; token < leaf_end; token += kAhead) {
        FeedbackTokens<V, kAhead, OpenRows>(p, item, token, leaf_end, q, leaf);
      }
    }
    MergeLeaf(run, leaf, leaf_first == item.first);
  }
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
  if (lane == 0) {
    out[width] = run.max;
    out[width + 1] = run.sum;
  }
}

// Query heads [pass * GC, ...) of the key heads in 256 columns of k, beginning at `first_column`.
template <int GC>
__device__ void ForwardItem(const AttentionParams& p, const Item& item, int first_column, int pass, float* running,
                            float* out) {
  const int lane = threadIdx.x & 31, d = p.head_width, kv = p.state.kv, group = p.heads / p.kv_heads;
  const int column = first_column + lane * 8;
  const bool inside = column < kv;
  const float scale = kLog2E * rsqrtf(static_cast<float>(d));
  float q[GC][8];
#pragma unroll
  for (int g = 0; g < GC; ++g) {
    const bool valid = inside && pass * GC + g < group;
    const int64_t at = static_cast<int64_t>(item.row) * p.state.width +
                       ((column / d) * group + pass * GC + g) * static_cast<int64_t>(d) + column % d;
#pragma unroll
    for (int e = 0; e < 8; ++e) q[g][e] = valid ? p.q[at + e] * scale : 0.0f;
  }
  Running run[GC];
#pragma unroll
  for (int g = 0; g < GC; ++g) run[g] = {running + g * 8 * 32 + lane, 0.0f, 0.0f};

  for (int leaf_first = item.first; leaf_first < item.end; leaf_first += kLeafTokens) {
    const int leaf_end = min(item.end, leaf_first + kLeafTokens);
    Softmax<8> leaf[GC];
#pragma unroll
    for (int g = 0; g < GC; ++g) leaf[g].Reset();
    const int64_t page = p.pages[item.meta.page_begin + (leaf_first >> 6)];
    const char* base = p.state.pages + page * p.state.page_bytes;
    for (int token = leaf_first; token < leaf_end; token += kForwardAhead) {
      uint4 k[kForwardAhead], v[kForwardAhead];
#pragma unroll
      for (int u = 0; u < kForwardAhead; ++u) {
        const int64_t at = (static_cast<int64_t>(min(token + u, leaf_end - 1) & 63) * kv + column) * 2;
        k[u] = inside ? LoadState(base + p.state.k + at) : make_uint4(0, 0, 0, 0);
        v[u] = inside ? LoadState(base + p.state.v + at) : make_uint4(0, 0, 0, 0);
      }
      float score[kForwardAhead][GC];
#pragma unroll
      for (int u = 0; u < kForwardAhead; ++u) {
        float numbers[8];
        UnpackBf16(k[u], numbers);
#pragma unroll
        for (int g = 0; g < GC; ++g) {
          score[u][g] = 0.0f;
#pragma unroll
          for (int e = 0; e < 8; ++e) score[u][g] = fmaf(numbers[e], q[g][e], score[u][g]);
        }
      }
      for (int offset = d / 16; offset > 0; offset >>= 1) {  // over the d / 8 lanes of a head
#pragma unroll
        for (int u = 0; u < kForwardAhead; ++u) {
#pragma unroll
          for (int g = 0; g < GC; ++g) score[u][g] += __shfl_xor_sync(kWholeWarp, score[u][g], offset);
        }
      }
#pragma unroll
      for (int g = 0; g < GC; ++g) {
        float max = leaf[g].max;
#pragma unroll
        for (int u = 0; u < kForwardAhead; ++u) max = fmaxf(max, score[u][g]);
        leaf[g].Raise(max);
      }
#pragma unroll
      for (int u = 0; u < kForwardAhead; ++u) {
        float numbers[8];
        UnpackBf16(v[u], numbers);
#pragma unroll
        for (int g = 0; g < GC; ++g) {
          const float weight = token + u < leaf_end ? exp2f(score[u][g] - leaf[g].max) : 0.0f;
          leaf[g].sum += weight;
#pragma unroll
          for (int e = 0; e < 8; ++e) leaf[g].acc[e] = fmaf(weight, numbers[e], leaf[g].acc[e]);
        }
      }
    }
#pragma unroll
    for (int g = 0; g < GC; ++g) MergeLeaf(run[g], leaf[g], leaf_first == item.first);
  }

#pragma unroll
  for (int g = 0; g < GC; ++g) {
    const int at = g * kForwardColumns + lane * 8;
#pragma unroll
    for (int e = 0; e < 8; e += 4) {
      const float* acc = run[g].acc + e * 32;
      *reinterpret_cast<float4*>(out + at + e) = make_float4(acc[0], acc[32], acc[64], acc[96]);
    }
    if (at % d == 0) {
      float* head = out + GC * kForwardColumns + at / d * 2;
      head[0] = run[g].max;
      head[1] = run[g].sum;
    }
  }
}

template <int V, int GC>
__global__ void __launch_bounds__(kWarps * 32, 2) AttentionItemsKernel(AttentionParams p, AttentionShape shape) {
  constexpr int kNumbers = (V > GC ? V : GC) * 8;  // a lane's accumulator
  __shared__ float running[kWarps][kNumbers * 32];
  PdlWait();
  PdlTrigger();
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int workers = gridDim.x * kWarps;
  const bool fine = p.header->fine != 0;
  const int feedback_items = p.feedback_first[p.row_count];
  const int items = feedback_items + p.forward_first[p.row_count] * shape.forward_chunks;
  const int column_chunks = (p.state.kv + kForwardColumns - 1) / kForwardColumns;
  int next = 0;
  for (int index = blockIdx.x + warp * gridDim.x; index < items; index = next) {
    if (lane == 0) next = workers + atomicAdd(p.next_item, 1);  // its wait is hidden by the item's work
    float* out = p.partials + index * shape.partial_floats;
    if (index < feedback_items) {
      FeedbackItem<V>(p, FindItem(p, p.feedback_first, index, fine, false), running[warp], out);
    } else {
      const int forward = index - feedback_items, chunk = forward % shape.forward_chunks;
      ForwardItem<GC>(p, FindItem(p, p.forward_first, forward / shape.forward_chunks, fine, true),
                      chunk % column_chunks * kForwardColumns, chunk / column_chunks, running[warp], out);
    }
    next = __shfl_sync(kWholeWarp, next, 0);
  }
}

template <int V>
cudaError_t LaunchItems(const AttentionParams& params, const AttentionShape& shape, int32_t multiprocessors,
                        const LaunchContext& context) {
  const auto kernel = shape.group_heads == 1 ? AttentionItemsKernel<V, 1> : AttentionItemsKernel<V, 4>;
  return LaunchKernel(kernel, dim3(2 * multiprocessors), dim3(kWarps * 32), 0, context.dependent, context.stream,
                      params, shape);
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
