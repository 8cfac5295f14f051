// The plain kernels: any shape, either state type, any card; float32 arithmetic on CUDA cores.
//
// Feedback takes some consecutive rows of one segment at a time, as many as their float32 weights fit the
// workspace:
//   SCORES   A[i,j] = qb_i . kb_j D^-1/2 for j < i;  WEIGHTS  A[i,:] = gamma_i softmax(A[i,:])
//   SOLVE    s_i = f_i + sum_j A[i,j] s_j, row after row; a warp owns 8 columns of D, so rows need no grid
//   barrier
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefill_launch.h"

namespace sessa::cuda {
namespace {

template <class T>
__device__ __forceinline__ float ToFloat(T x) {
  return static_cast<float>(x);
}

// One segment's rows, for all plain kernels.
struct PlainParams {
  PrefillSegment segment;
  const int32_t* pages;     // of the segment
  int first = 0, rows = 0;  // rows of the segment in this launch
  int D = 0;
  char *kb_plane = nullptr, *s_plane = nullptr, *open_plane = nullptr;
  int64_t page_bytes = 0, open_page_bytes = 0;
  const __nv_bfloat16* qb = nullptr;
  const float* gamma = nullptr;
  const float* f = nullptr;
  float* s = nullptr;
  unsigned long long* saturations = nullptr;
  float* weights = nullptr;  // (rows, columns)
  int64_t columns = 0;
};

constexpr int kScoreRows = 16;

// weights[i, 64 tokens of page blockIdx.x] for 16 rows; thread: a token and 4 rows.
template <class Key>
__global__ void __launch_bounds__(256) PlainScoreKernel(PlainParams p) {
  __shared__ float queries[kScoreRows][33], keys[kPageTokens][33];
  const int row0 = p.first + blockIdx.y * kScoreRows;  // of the segment
  const int rows = min(kScoreRows, p.first + p.rows - row0);
  const int position0 = p.segment.start + row0;
  const int token = threadIdx.x % kPageTokens, part = threadIdx.x / kPageTokens;
  const int j = blockIdx.x * kPageTokens + token;
  const int tokens =
      position0 + rows - 1 - static_cast<int>(blockIdx.x) * kPageTokens;  // that are attended to
  if (tokens <= 0) return;
  const Key* page = reinterpret_cast<const Key*>(p.kb_plane + p.pages[blockIdx.x] * p.page_bytes);
  float sum[4] = {};
  for (int d0 = 0; d0 < p.D; d0 += 32) {
    for (int k = threadIdx.x; k < kScoreRows * 32; k += 256) {
      const int i = k / 32, d = d0 + k % 32;
      queries[i][k % 32] =
          i < rows && d < p.D
              ? ToFloat(p.qb[(static_cast<int64_t>(p.segment.first_row) + row0 + i) * p.D + d])
              : 0;
    }
    for (int k = threadIdx.x; k < kPageTokens * 32; k += 256) {
      const int d = d0 + k % 32;
      keys[k / 32][k % 32] =
          k / 32 < tokens && d < p.D ? ToFloat(page[static_cast<int64_t>(k / 32) * p.D + d]) : 0;
    }
    __syncthreads();
    for (int d = 0; d < 32; d++) {
#pragma unroll
      for (int i = 0; i < 4; i++) sum[i] += queries[part * 4 + i][d] * keys[token][d];
    }
    __syncthreads();
  }
  const float scale = rsqrtf(static_cast<float>(p.D));
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = row0 + part * 4 + i;
    if (part * 4 + i < rows && j < p.segment.start + row) {
      p.weights[(row - p.first) * p.columns + j] = sum[i] * scale;
    }
  }
}

__device__ float BlockReduce(float value, bool maximum, float* scratch) {
  for (int i = 16; i > 0; i /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, value, i);
    value = maximum ? fmaxf(value, other) : value + other;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[0];
  for (int i = 1; i < static_cast<int>(blockDim.x) / 32; i++) {
    value = maximum ? fmaxf(value, scratch[i]) : value + scratch[i];
  }
  return value;
}

__global__ void __launch_bounds__(256) PlainWeightKernel(PlainParams p) {
  __shared__ float scratch[8];
  const int row = p.first + blockIdx.x;
  const int position = p.segment.start + row;  // so many columns
  float* weights = p.weights + blockIdx.x * p.columns;
  float largest = -INFINITY;
  for (int j = threadIdx.x; j < position; j += 256) largest = fmaxf(largest, weights[j]);
  largest = BlockReduce(largest, true, scratch);
  float sum = 0;
  for (int j = threadIdx.x; j < position; j += 256) sum += weights[j] = expf(weights[j] - largest);
  sum = BlockReduce(sum, false, scratch);
  const float sigma = position > 0 ? p.gamma[p.segment.first_row + row] / sum : 0;
  for (int j = threadIdx.x; j < position; j += 256) weights[j] *= sigma;
}

// s of a position before the launch's rows.
template <class State>
__device__ float PlainState(const PlainParams& p, int j, int column) {
  if (j >= p.segment.start) {
    return p.s[(static_cast<int64_t>(p.segment.first_row) + j - p.segment.start) * p.D + column];
  }
  const int64_t in_page = static_cast<int64_t>(j % kPageTokens) * p.D + column;
  if (sizeof(State) == 2 && j / kPageTokens == p.segment.start / kPageTokens) {
    return reinterpret_cast<const float*>(p.open_plane + p.segment.open_page * p.open_page_bytes)[in_page];
  }
  return ToFloat(
      reinterpret_cast<const State*>(p.s_plane + p.pages[j / kPageTokens] * p.page_bytes)[in_page]);
}

template <class State>
__device__ void PlainStore(const PlainParams& p, int row, int column, float value) {
  p.s[(static_cast<int64_t>(p.segment.first_row) + row) * p.D + column] = value;
  const int position = p.segment.start + row;
  const int64_t in_page = static_cast<int64_t>(position % kPageTokens) * p.D + column;
  char* page = p.s_plane + p.pages[position / kPageTokens] * p.page_bytes;
  if constexpr (sizeof(State) == 4) {
    reinterpret_cast<float*>(page)[in_page] = value;
  } else {
    reinterpret_cast<__half*>(page)[in_page] = __float2half_rn(fminf(fmaxf(value, -65504.f), 65504.f));
    if (!(fabsf(value) <= 65504.f)) atomicAdd(p.saturations, 1ull);
  }
}

constexpr int kSolveColumns = 8;  // of a block; its 32 lanes a column split the sum over j

// A block owns 8 columns: for each row, 256 threads sum over j = lane, lane + 32, ...; the row's s is read
// back by the rows after it.
template <class State>
__global__ void __launch_bounds__(256) PlainSolveKernel(PlainParams p) {
  __shared__ float partial[8][kSolveColumns];
  const int c = threadIdx.x % kSolveColumns, part = threadIdx.x / kSolveColumns;  // 32 parts
  const int column = blockIdx.x * kSolveColumns + c;
  const bool inside = column < p.D;
  for (int row = p.first; row < p.first + p.rows; row++) {
    const int position = p.segment.start + row;
    const float* weights = p.weights + (row - p.first) * p.columns;
    float sum = 0;
    if (inside) {
      for (int j = part; j < position; j += 32) sum += weights[j] * PlainState<State>(p, j, column);
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 8);
    sum += __shfl_xor_sync(0xffffffffu, sum, 16);
    if (threadIdx.x % 32 < kSolveColumns) partial[threadIdx.x / 32][c] = sum;
    __syncthreads();
    if (part == 0 && inside) {
      float value = p.f[(static_cast<int64_t>(p.segment.first_row) + row) * p.D + column];
      for (int w = 0; w < 8; w++) value += partial[w][c];
      PlainStore<State>(p, row, column, value);
    }
    __syncthreads();
  }
}

// The last block's rows to the open page, once no row reads the block of `start` any more.
__global__ void PlainOpenKernel(PlainParams p) {
  const int end = p.segment.start + p.segment.rows;
  const int position = (end - 1) / kPageTokens * kPageTokens + blockIdx.x;
  if (position >= end || position < p.segment.start) return;
  const int64_t row = static_cast<int64_t>(p.segment.first_row) + position - p.segment.start;
  float* to =
      reinterpret_cast<float*>(p.open_plane + p.segment.open_page * p.open_page_bytes) + blockIdx.x * p.D;
  for (int d = threadIdx.x; d < p.D; d += blockDim.x) to[d] = p.s[row * p.D + d];
}

struct PlainAttentionParams {
  PrefillSegment segment;
  const int32_t* pages;
  int D, heads, kv_heads, head_width;
  const char *k_plane, *v_plane;
  int64_t page_bytes;
  const __nv_bfloat16* q;
  __nv_bfloat16* o;
};

// A block of 128 threads computes one row of one head: 128 positions at a time, a thread a position for the
// scores, then a thread some columns for the values.
template <class T>
__global__ void __launch_bounds__(128) PlainForwardKernel(PlainAttentionParams p) {
  extern __shared__ float shared[];  // q (d), o (d)
  __shared__ float weights[128], scratch[4];
  float* query = shared;
  float* out = shared + p.head_width;
  const int row = blockIdx.x, head = blockIdx.y, d = p.head_width;
  const int position = p.segment.start + row;
  const int64_t at = (static_cast<int64_t>(p.segment.first_row) + row) * p.D + head * d;
  const int kv_width = p.kv_heads * d, kv_column = head / (p.heads / p.kv_heads) * d;
  const float scale = rsqrtf(static_cast<float>(d));
  for (int i = threadIdx.x; i < d; i += 128) query[i] = ToFloat(p.q[at + i]) * scale, out[i] = 0;
  float maximum = -INFINITY, sum = 0;
  for (int base = 0; base <= position; base += 128) {
    __syncthreads();
    const int j = base + threadIdx.x;
    float score = -INFINITY;
    if (j <= position) {
      const T* k = reinterpret_cast<const T*>(p.k_plane + p.pages[j / kPageTokens] * p.page_bytes) +
                   static_cast<int64_t>(j % kPageTokens) * kv_width + kv_column;
      score = 0;
      for (int i = 0; i < d; i++) score += query[i] * ToFloat(k[i]);
    }
    const float largest = fmaxf(maximum, BlockReduce(score, true, scratch));
    const float alpha = expf(maximum - largest), weight = expf(score - largest);
    maximum = largest;
    weights[threadIdx.x] = weight;
    sum = sum * alpha + BlockReduce(weight, false, scratch);
    const int count = min(128, position + 1 - base);
    for (int i = threadIdx.x; i < d; i += 128) {
      float value = out[i] * alpha;
      for (int t = 0; t < count; t++) {
        const T* v = reinterpret_cast<const T*>(p.v_plane + p.pages[(base + t) / kPageTokens] * p.page_bytes);
        value += weights[t] *
                 ToFloat(v[static_cast<int64_t>((base + t) % kPageTokens) * kv_width + kv_column + i]);
      }
      out[i] = value;
    }
  }
  for (int i = threadIdx.x; i < d; i += 128) p.o[at + i] = __float2bfloat16_rn(out[i] / sum);
}

template <class Key, class State>
void SolveSegment(PlainParams p, int rows_at_once, cudaStream_t stream) {
  for (p.first = 0; p.first < p.segment.rows; p.first += rows_at_once) {
    p.rows = std::min(rows_at_once, p.segment.rows - p.first);
    const int columns = p.segment.start + p.first + p.rows;
    const dim3 grid((columns + kPageTokens - 1) / kPageTokens, (p.rows + kScoreRows - 1) / kScoreRows);
    PlainScoreKernel<Key><<<grid, 256, 0, stream>>>(p);
    PlainWeightKernel<<<p.rows, 256, 0, stream>>>(p);
    PlainSolveKernel<State><<<(p.D + kSolveColumns - 1) / kSolveColumns, 256, 0, stream>>>(p);
  }
  if (sizeof(State) == 2) PlainOpenKernel<<<kPageTokens, 128, 0, stream>>>(p);
}

}  // namespace

cudaError_t LaunchPlainForward(const PrefillContext& context, const PrefillForwardParams& params,
                               cudaStream_t stream) {
  const StateLayout& layout = *context.state.layout;
  const ModelShape& shape = layout.shape;
  const char* pages = static_cast<const char*>(context.state.pages);
  PlainAttentionParams p{};
  p.D = shape.width;
  p.heads = shape.heads;
  p.kv_heads = shape.kv_heads;
  p.head_width = shape.head_width();
  p.k_plane = pages + layout.PlaneOffset(context.state.layer, Plane::kK);
  p.v_plane = pages + layout.PlaneOffset(context.state.layer, Plane::kV);
  p.page_bytes = layout.page_bytes();
  p.q = static_cast<const __nv_bfloat16*>(params.q);
  p.o = static_cast<__nv_bfloat16*>(params.o);
  const int shared = 2 * p.head_width * 4;
  const bool f32 = layout.dtype == StateDtype::kF32;
  const cudaError_t error = f32 ? AllowShared(PlainForwardKernel<float>, shared)
                                : AllowShared(PlainForwardKernel<__nv_bfloat16>, shared);
  if (error != cudaSuccess) return error;
  for (const PrefillSegment& segment : context.plan->segments) {
    p.segment = segment;
    p.pages = context.state.page_table + segment.page_begin;
    const dim3 grid(segment.rows, p.heads);
    if (f32) {
      PlainForwardKernel<float><<<grid, 128, shared, stream>>>(p);
    } else {
      PlainForwardKernel<__nv_bfloat16><<<grid, 128, shared, stream>>>(p);
    }
  }
  return cudaGetLastError();
}

cudaError_t LaunchPlainSolve(const PrefillContext& context, const PrefillFeedbackParams& params,
                             cudaStream_t stream) {
  if (context.plan->plain_segments.empty()) return cudaSuccess;
  const WorkspaceLayout workspace = MakeWorkspaceLayout(*context.limits);
  const PrefillBuffers buffers = ResolveBuffers(context);
  PlainParams p;
  p.D = buffers.D;
  p.kb_plane = buffers.kb_plane;
  p.s_plane = buffers.s_plane;
  p.open_plane = buffers.open_plane;
  p.page_bytes = buffers.page_bytes;
  p.open_page_bytes = buffers.open_page_bytes;
  p.qb = static_cast<const __nv_bfloat16*>(params.qb);
  p.gamma = params.gamma;
  p.f = params.f;
  p.s = params.s;
  p.saturations = params.saturations;
  p.weights = reinterpret_cast<float*>(static_cast<char*>(context.workspace) + workspace.plain);
  for (const PrefillSegment& segment : context.plan->plain_segments) {
    p.segment = segment;
    p.pages = context.state.page_table + segment.page_begin;
    p.columns = segment.start + segment.rows;
    const int64_t rows = workspace.plain_bytes / 4 / p.columns;
    const int rows_at_once = static_cast<int>(std::min<int64_t>(std::max<int64_t>(rows, 1), segment.rows));
    if (context.state.layout->dtype == StateDtype::kF32) {
      SolveSegment<float, float>(p, rows_at_once, stream);
    } else {
      SolveSegment<__nv_bfloat16, __half>(p, rows_at_once, stream);
    }
  }
  return cudaGetLastError();
}

}  // namespace sessa::cuda
