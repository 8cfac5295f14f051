// Attention of decode rows for any shape and state type: a block of threads a row and head. Made to be right
// where the split-KV kernels do not apply (odd widths, float32 state), not to be fast.
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/decode_softmax.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"

namespace sessa::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

enum class Format { kF32, kBf16, kFp16 };

__device__ __forceinline__ float LoadNumber(const char* row, Format format, int column) {
  if (format == Format::kF32) return reinterpret_cast<const float*>(row)[column];
  if (format == Format::kBf16) return __bfloat162float(reinterpret_cast<const bf16*>(row)[column]);
  return __half2float(reinterpret_cast<const __half*>(row)[column]);
}

// Rows of a plane within one block of 64 tokens, from a column on.
struct PlaneBlock {
  const char* first;
  int64_t pitch;  // bytes from a row to the next
  Format format;
};

// Adds a block of up to 64 tokens to a softmax in base 2 whose accumulator (width) lies in shared memory.
__device__ void AddBlock(const PlaneBlock& keys, const PlaneBlock& values, int tokens, const float* query,
                         float scale, int width, float* acc, float* scores, float& max, float& sum) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int token = warp; token < tokens; token += kWarps) {
    float dot = 0.0f;
    for (int c = lane; c < width; c += 32) {
      dot = fmaf(LoadNumber(keys.first + token * keys.pitch, keys.format, c), query[c], dot);
    }
    dot = SumWarp(dot);
    if (lane == 0) scores[token] = dot * scale;
  }
  __syncthreads();
  float new_max = max;
  for (int token = 0; token < tokens; ++token) new_max = fmaxf(new_max, scores[token]);
  const float factor = exp2f(max - new_max);
  sum *= factor;
  max = new_max;
  for (int token = 0; token < tokens; ++token) sum += exp2f(scores[token] - max);
  for (int c = threadIdx.x; c < width; c += kThreads) {
    float a = acc[c] * factor;
    for (int token = 0; token < tokens; ++token) {
      a = fmaf(exp2f(scores[token] - max), LoadNumber(values.first + token * values.pitch, values.format, c),
               a);
    }
    acc[c] = a;
  }
  __syncthreads();
}

// blockIdx.y < H: that forward head; == H: the feedback attention.
__global__ void __launch_bounds__(kThreads) GenericAttentionKernel(AttentionParams p) {
  extern __shared__ float acc[];
  __shared__ float scores[kBlockTokens];
  PdlWait();
  PdlTrigger();
  const int row = blockIdx.x, head = blockIdx.y;
  const bool feedback = head == p.heads;
  const LayerState& state = p.state;
  const RowMeta meta = p.rows[row];
  const int width = feedback ? state.width : p.head_width;
  const int tokens = meta.live == 0 ? 0 : meta.position + (feedback ? 0 : 1);
  const int key_width = feedback ? state.width : state.kv;
  const int column = feedback ? 0 : head / (p.heads / p.kv_heads) * p.head_width;  // of the key head
  const float* query = feedback ? p.qb + static_cast<int64_t>(row) * state.width
                                : p.q + static_cast<int64_t>(row) * state.width + head * p.head_width;
  const float scale = kLog2E * rsqrtf(static_cast<float>(width));
  const int number = state.f32 ? 4 : 2;
  float max = kNoMaximum, sum = 0.0f;
  for (int c = threadIdx.x; c < width; c += kThreads) acc[c] = 0.0f;
  __syncthreads();
  for (int block = 0; block * kBlockTokens < tokens; ++block) {
    const char* page = state.pages + p.pages[meta.page_begin + block] * state.page_bytes;
    PlaneBlock keys{page + (feedback ? state.kb : state.k) + static_cast<int64_t>(column) * number,
                    static_cast<int64_t>(key_width) * number, state.f32 ? Format::kF32 : Format::kBf16};
    PlaneBlock values{page + (feedback ? state.s : state.v) + static_cast<int64_t>(column) * number,
                      keys.pitch,
                      state.f32  ? Format::kF32
                      : feedback ? Format::kFp16
                                 : Format::kBf16};
    if (feedback && !state.f32 && block == meta.position / kBlockTokens) {
      values = {state.open_pages + meta.open_page * state.open_page_bytes + state.open_s,
                static_cast<int64_t>(state.width) * 4, Format::kF32};
    }
    AddBlock(keys, values, min(kBlockTokens, tokens - block * kBlockTokens), query, scale, width, acc, scores,
             max, sum);
  }
  const float inverse = tokens > 0 ? 1.0f / sum : 0.0f;
  for (int c = threadIdx.x; c < width; c += kThreads) {
    const float value = acc[c] * inverse;
    const int at = head * p.head_width + c;
    if (feedback) {
      p.ctx[static_cast<int64_t>(row) * state.width + c] = value;
    } else {
      if (p.o_bf16 != nullptr) {
        static_cast<bf16*>(p.o_bf16)[static_cast<int64_t>(row) * p.pitch + at] = __float2bfloat16_rn(value);
      }
      if (p.o != nullptr) p.o[static_cast<int64_t>(row) * state.width + at] = value;
    }
  }
}

}  // namespace

cudaError_t LaunchGenericAttention(const AttentionParams& params, const LaunchContext& context) {
  const size_t shared = params.state.width * sizeof(float);
  const cudaError_t error = AllowShared(GenericAttentionKernel, shared);
  if (error != cudaSuccess) return error;
  return LaunchKernel(GenericAttentionKernel, dim3(params.row_count, params.heads + 1), dim3(kThreads),
                      shared, context.dependent, context.stream, params);
}

}  // namespace sessa::cuda
