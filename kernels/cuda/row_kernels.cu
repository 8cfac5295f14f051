// Kernels that work on each row by itself: embedding, LayerNorm, gate, and epilogues over finished products.
#include "kernels/cuda/epilogues.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm_row.cuh"

namespace sessa::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) EmbedKernel(EmbedParams p) {
  PdlWait();
  PdlTrigger();
  const int row = blockIdx.x;
  const RowMeta meta = p.rows[row];
  const bf16* from =
      static_cast<const bf16*>(p.embed) + static_cast<int64_t>(TokenOf(meta, p.slots, p.vocab)) * p.pitch;
  for (int i = threadIdx.x; i < p.width; i += kThreads) {
    p.x[static_cast<int64_t>(row) * p.width + i] = __bfloat162float(from[i]);
  }
  if (p.theta == nullptr) return;
  for (int i = threadIdx.x; i < p.half_head; i += kThreads) {
    p.rotation[static_cast<int64_t>(row) * p.half_head + i] = TurnOf(meta.position, p.theta[i]);
  }
}

// n = LayerNorm(x) * weight + bias, a row a warp.
__global__ void __launch_bounds__(32) NormKernel(NormParams p) {
  constexpr int kPairs = 16;
  const int lane = threadIdx.x, width = p.width;
  const auto pair = [&](const float* from, int k) {
    const int c = 2 * (lane + 32 * k);
    return make_float2(c < width ? from[c] : 0.0f, c + 1 < width ? from[c + 1] : 0.0f);
  };
  float2 weight[kPairs], bias[kPairs];
#pragma unroll
  for (int k = 0; k < kPairs; ++k) {
    weight[k] = pair(p.weight, k);
    bias[k] = pair(p.bias, k);
  }
  PdlWait();
  PdlTrigger();
  const int row = blockIdx.x;
  const int from = p.outputs != nullptr ? p.outputs[row].row : row;
  const float* x = p.x + static_cast<int64_t>(from) * width;
  bf16* n = static_cast<bf16*>(p.n) + static_cast<int64_t>(row) * p.pitch;
  NormRow<kPairs, true>(
      width, p.eps, [&](int k) { return pair(x, k); },
      [&](int k, float2 y) {
        const float2 w = k < kPairs ? weight[k] : pair(p.weight, k),
                     b = k < kPairs ? bias[k] : pair(p.bias, k);
        const int c = 2 * (lane + 32 * k);
        n[c] = __float2bfloat16_rn(fmaf(y.x, w.x, b.x));
        if (c + 1 < width) n[c + 1] = __float2bfloat16_rn(fmaf(y.y, w.y, b.y));
      });
}

__global__ void __launch_bounds__(kThreads)
    GateKernel(const float* s, const float* g, bf16* u, int width, int pitch) {
  PdlWait();
  PdlTrigger();
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < width; i += kThreads) {
    u[row * pitch + i] = __float2bfloat16_rn(s[row * width + i] * g[row * width + i]);
  }
}

__global__ void __launch_bounds__(kThreads) WidenKernel(const bf16* in, float* out, int64_t count) {
  PdlWait();
  PdlTrigger();
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    out[i] = __bfloat162float(in[i]);
  }
}

__global__ void __launch_bounds__(kThreads) RepitchKernel(const bf16* in, bf16* out, int width, int pitch) {
  PdlWait();
  PdlTrigger();
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < width; i += kThreads) out[row * pitch + i] = in[row * width + i];
}

// A block of threads takes a stretch of one row's outputs.
template <typename Epilogue>
__global__ void __launch_bounds__(kThreads) EpilogueKernel(Product product, Epilogue epilogue) {
  PdlWait();
  PdlTrigger();
  const int row = blockIdx.x;
  const int n = 2 * (blockIdx.y * kThreads + threadIdx.x);
  if (n >= product.outputs) return;
  const float* y = product.y + row * product.pitch + n;
  epilogue.Apply(epilogue.Load(row, n, product.outputs), row, n, y[0], n + 1 < product.outputs ? y[1] : 0.0f,
                 product.outputs);
}

template <typename Epilogue>
cudaError_t LaunchEpilogueKernel(const Product& product, const Epilogue& epilogue,
                                 const LaunchContext& context) {
  const dim3 grid(product.rows, (product.outputs + 2 * kThreads - 1) / (2 * kThreads));
  return LaunchKernel(EpilogueKernel<Epilogue>, grid, dim3(kThreads), 0, context.dependent, context.stream,
                      product, epilogue);
}

}  // namespace

cudaError_t LaunchEmbed(const EmbedParams& params, const LaunchContext& context) {
  return LaunchKernel(EmbedKernel, dim3(params.row_count), dim3(kThreads), 0, context.dependent,
                      context.stream, params);
}

cudaError_t LaunchNorm(const NormParams& params, const LaunchContext& context) {
  return LaunchKernel(NormKernel, dim3(params.row_count), dim3(32), 0, context.dependent, context.stream,
                      params);
}

cudaError_t LaunchGate(const float* s, const float* g, void* u, int32_t rows, int32_t width, int32_t pitch,
                       const LaunchContext& context) {
  return LaunchKernel(GateKernel, dim3(rows), dim3(kThreads), 0, context.dependent, context.stream, s, g,
                      static_cast<bf16*>(u), width, pitch);
}

cudaError_t LaunchWiden(const void* in, float* out, int64_t count, const LaunchContext& context) {
  const unsigned blocks = static_cast<unsigned>(min((count + kThreads - 1) / kThreads, int64_t{4096}));
  return LaunchKernel(WidenKernel, dim3(blocks), dim3(kThreads), 0, context.dependent, context.stream,
                      static_cast<const bf16*>(in), out, count);
}

cudaError_t LaunchRepitch(const void* in, void* out, int32_t rows, int32_t width, int32_t pitch,
                          const LaunchContext& context) {
  return LaunchKernel(RepitchKernel, dim3(rows), dim3(kThreads), 0, context.dependent, context.stream,
                      static_cast<const bf16*>(in), static_cast<bf16*>(out), width, pitch);
}

cudaError_t LaunchEpilogue(const Product& product, const InEpilogueParams& epilogue,
                           const LaunchContext& context) {
  return LaunchEpilogueKernel(product, InEpilogue(epilogue), context);
}
cudaError_t LaunchEpilogue(const Product& product, const ProjectEpilogueParams& epilogue,
                           const LaunchContext& context) {
  return LaunchEpilogueKernel(product, ProjectEpilogue(epilogue), context);
}
cudaError_t LaunchEpilogue(const Product& product, const FeedbackEpilogueParams& epilogue,
                           const LaunchContext& context) {
  return LaunchEpilogueKernel(product, FeedbackEpilogue(epilogue), context);
}

}  // namespace sessa::cuda
