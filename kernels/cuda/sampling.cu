// Draws tokens from logits as kernels/host_sampler.h says (its steps 6 to 10), without sorting: thresholds
// come from a radix descent over the logits' bits, and every sum is of integers (weights in units of 2^-40),
// so that results do not depend on the order in which threads add.
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/philox.h"

namespace sessa::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kLoads = 16;  // logits of a thread that are under way together
constexpr float kUnit =
    1099511627776.0f;  // 2^40: of a weight, at most 1; a vocabulary's sum stays below 2^63

using Count = unsigned long long;

// exp(x) for x <= 0, 0 below -86: the polynomial of kernels/logit_scan.cc, operation by operation.
__device__ float ExpNonPositive(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  const float clamped = x > -86.0f ? x : -86.0f;
  const float shifted = __fadd_rn(__fmul_rn(clamped, 1.44269504088896341f), kRound);
  const float n = __fadd_rn(shifted, -kRound);
  const float r = __fadd_rn(__fadd_rn(clamped, -__fmul_rn(n, 0.693359375f)), -__fmul_rn(n, -2.12194440e-4f));
  float p = 1.9875691500e-4f;
  p = __fadd_rn(__fmul_rn(p, r), 1.3981999507e-3f);
  p = __fadd_rn(__fmul_rn(p, r), 8.3334519073e-3f);
  p = __fadd_rn(__fmul_rn(p, r), 4.1665795894e-2f);
  p = __fadd_rn(__fmul_rn(p, r), 1.6666665459e-1f);
  p = __fadd_rn(__fmul_rn(p, r), 5.0000001201e-1f);
  p = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
  return x > -86.0f ? __fmul_rn(p, __int_as_float((static_cast<int>(n) + 127) << 23)) : 0.0f;
}

// Unsigned keys in the order of the floats; -0 and +0 get the same key.
__device__ uint32_t KeyOf(float value) {
  const uint32_t bits = __float_as_uint(__fadd_rn(value, 0.0f));
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ float ValueOf(uint32_t key) {
  return __uint_as_float((key >> 31) != 0 ? key & 0x7fffffffu : ~key);
}

struct Shared {
  Count bins[kBins];
  Count warps[kWarps];
  float values[kWarps];
  int indices[kWarps];
  uint32_t bin;
  Count above;  // sum of the bins above it
};

// Sum over the block of threads; every thread gets it.
__device__ Count SumBlock(Count x, Shared& shared) {
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(kWholeWarp, x, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.warps[threadIdx.x / 32] = x;
  __syncthreads();
  Count sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += shared.warps[i];
  return sum;
}

// The greatest value and the lowest index that has it.
__device__ void MaxBlock(float& value, int& index, Shared& shared) {
  const auto take = [&](float other, int other_index) {
    if (other > value || (other == value && other_index < index)) value = other, index = other_index;
  };
  const auto take_warp = [&] {  // of a warp
    for (int offset = 16; offset > 0; offset >>= 1) {
      const float other = __shfl_xor_sync(kWholeWarp, value, offset);
      const int other_index = __shfl_xor_sync(kWholeWarp, index, offset);
      take(other, other_index);
    }
  };
  static_assert(kWarps == 32);
  take_warp();
  if (threadIdx.x % 32 == 0)
    shared.values[threadIdx.x / 32] = value, shared.indices[threadIdx.x / 32] = index;
  __syncthreads();
  value = shared.values[threadIdx.x % kWarps], index = shared.indices[threadIdx.x % kWarps];
  take_warp();
}

// The bin, from the top, at which the running sum reaches `goal`; the lowest that is not empty where none
// does.
__device__ void FindBin(Count goal, Shared& shared) {
  __syncthreads();
  if (threadIdx.x < 32) {  // a warp walks down, 32 bins a step
    Count above = 0;
    uint32_t found = 0;
    Count above_found = 0;
    for (int top = kBins - 1; top >= 0; top -= 32) {
      const int bin = top - static_cast<int>(threadIdx.x);
      const Count own = shared.bins[bin];
      Count running = own;
      for (int offset = 1; offset < 32; offset <<= 1) {
        const Count other = __shfl_up_sync(kWholeWarp, running, offset);
        if (static_cast<int>(threadIdx.x) >= offset) running += other;
      }
      const unsigned filled = __ballot_sync(kWholeWarp, own != 0);
      const unsigned reached = __ballot_sync(kWholeWarp, own != 0 && above + running >= goal);
      if (filled != 0) {
        const int lane = reached != 0 ? __ffs(reached) - 1 : 31 - __clz(filled);
        found = static_cast<uint32_t>(top - lane);
        above_found = above + __shfl_sync(kWholeWarp, running - own, lane);
      }
      if (reached != 0) break;
      above += __shfl_sync(kWholeWarp, running, 31);
    }
    if (threadIdx.x == 0) shared.bin = found, shared.above = above_found;
  }
  __syncthreads();
}

// The greatest threshold such that the weights of the logits >= it sum to at least `goal`: 11, 11 and 10
// bits.
template <typename Weight>
__device__ float Select(const float* logits, int vocab, const Weight& weight, Count goal, Shared& shared) {
  uint32_t prefix = 0;
  for (int shift = 21; shift >= 0; shift -= shift == 21 ? 11 : 10) {
    const int width = shift == 0 ? 10 : 11;
    __syncthreads();
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) shared.bins[bin] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < vocab; i += kThreads) {
      const uint32_t key = KeyOf(logits[i]);
      if (shift != 21 && key >> (shift + width) != prefix) continue;
      const Count w = weight(logits[i]);
      if (w != 0) atomicAdd(&shared.bins[(key >> shift) & ((1u << width) - 1)], w);
    }
    FindBin(goal, shared);
    prefix = prefix << width | shared.bin;
    goal -= min(goal, shared.above);
    if (shift == 0) break;
  }
  return ValueOf(prefix);
}

struct Weights {
  float max, temperature;
  float threshold;  // logits below it count nothing
  float min_weight;

  __device__ Count operator()(float logit) const {
    if (logit < threshold) return 0;
    const float difference = __fadd_rn(logit, -max);
    const float w = ExpNonPositive(temperature == 1.0f ? difference : __fdiv_rn(difference, temperature));
    return w < min_weight ? 0 : static_cast<Count>(w * kUnit);
  }
};

template <typename Weight>
__device__ Count SumWeights(const float* logits, int vocab, const Weight& weight, Shared& shared) {
  Count sum = 0;
  for (int i = threadIdx.x; i < vocab; i += kThreads) sum += weight(logits[i]);
  return SumBlock(sum, shared);
}

// The first token, by ascending id, at which the running sum of weights exceeds `goal`.
__device__ int DrawAt(const float* logits, int vocab, const Weights& weights, double uniform, int greatest,
                      Shared& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int stretch = (vocab + kWarps - 1) / kWarps;  // of the vocabulary, a warp's
  const int begin = warp * stretch, end = min(vocab, begin + stretch);
  Count sum = 0;
  for (int i = begin + lane; i < end; i += 32) sum += weights(logits[i]);
  for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(kWholeWarp, sum, offset);
  __syncthreads();
  if (lane == 0) shared.warps[warp] = sum;
  if (threadIdx.x == 0) shared.bin = greatest;
  __syncthreads();
  Count total = 0, before = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp) before += shared.warps[i];
    total += shared.warps[i];
  }
  const Count goal = static_cast<Count>(uniform * static_cast<double>(total));
  if (before <= goal && goal < before + sum) {  // one warp only
    for (int first = begin; first < end; first += 32) {
      const Count own = first + lane < end ? weights(logits[first + lane]) : 0;
      Count running = own;
      for (int offset = 1; offset < 32; offset <<= 1) {
        const Count other = __shfl_up_sync(kWholeWarp, running, offset);
        if (lane >= offset) running += other;
      }
      const unsigned beyond = __ballot_sync(kWholeWarp, before + running > goal);
      if (beyond != 0) {
        if (lane == 0) shared.bin = first + __ffs(beyond) - 1;
        break;
      }
      before += __shfl_sync(kWholeWarp, running, 31);
    }
  }
  __syncthreads();
  return static_cast<int>(shared.bin);
}

__device__ int Choose(const float* logits, int vocab, const OutputMeta& output, float max, int greatest,
                      Shared& shared) {
  if (output.temperature == 0.0f) return greatest;
  Weights weights{max, output.temperature, -__int_as_float(0x7f800000), 0.0f};
  if (output.top_k > 0 && output.top_k < vocab) {
    const auto one = [](float logit) -> Count { return logit > -__int_as_float(0x7f800000) ? 1 : 0; };
    weights.threshold = Select(logits, vocab, one, output.top_k, shared);
  }
  if (output.top_p < 1.0f) {
    const Count sum = SumWeights(logits, vocab, weights, shared);
    const Count goal = static_cast<Count>(static_cast<double>(output.top_p) * static_cast<double>(sum));
    weights.threshold = fmaxf(weights.threshold, Select(logits, vocab, weights, goal > 0 ? goal : 1, shared));
  }
  weights.min_weight = output.min_p;
  const double uniform = DrawUniform(output.seed, output.sample_index, output.position);
  return DrawAt(logits, vocab, weights, uniform, greatest, shared);
}

__global__ void __launch_bounds__(kThreads) SampleKernel(const __grid_constant__ SampleKernelParams p) {
  __shared__ Shared shared;
  PdlWait();
  PdlTrigger();
  if (p.saturations_copy != nullptr && blockIdx.x == 0 && threadIdx.x == 0)
    *p.saturations_copy = *p.saturations;
  const OutputMeta output = p.outputs != nullptr ? p.outputs[blockIdx.x] : p.few_outputs[blockIdx.x];
  if (output.mode == OutputMode::kNone) return;
  const float* logits = p.logits + blockIdx.x * p.pitch;
  float max = -__int_as_float(0x7f800000);
  int greatest = p.vocab, bad = 0;
  for (int first = threadIdx.x; first < p.vocab; first += kLoads * kThreads) {
    float some[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int i = first + j * kThreads;
      some[j] = i < p.vocab ? logits[i] : -__int_as_float(0x7f800000);
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      bad |= !(some[j] < __int_as_float(0x7f800000));
      if (some[j] > max) max = some[j], greatest = first + j * kThreads;
    }
  }
  bad = __syncthreads_or(bad);
  MaxBlock(max, greatest, shared);
  SampleResult result = {-1, 0.0f, bad == 0 && max > -__int_as_float(0x7f800000), 0};
  if (result.finite != 0) {
    if (output.mode == OutputMode::kScore) {
      const Weights all{max, 1.0f, -__int_as_float(0x7f800000), 0.0f};
      const double sum = static_cast<double>(SumWeights(logits, p.vocab, all, shared)) / kUnit;
      result.token = output.target;
      result.logprob = static_cast<float>(static_cast<double>(logits[output.target]) - (max + log(sum)));
    } else {
      result.token = Choose(logits, p.vocab, output, max, greatest, shared);
    }
  }
  if (threadIdx.x != 0) return;
  p.results[blockIdx.x] = result;
  if (output.slot >= 0) p.slots[output.slot] = result.token;
}

}  // namespace

cudaError_t LaunchSample(const SampleKernelParams& params, const LaunchContext& context) {
  return LaunchKernel(SampleKernel, dim3(params.row_count), dim3(kThreads), 0, context.dependent,
                      context.stream, params);
}

}  // namespace sessa::cuda
