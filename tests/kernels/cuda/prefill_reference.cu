#include "tests/kernels/cuda/prefill_reference.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/kernels/cuda/prefill_fixture.h"

namespace sessa::cuda {
namespace {

constexpr int kThreads = 256;
int Blocks(int64_t count) { return static_cast<int>((count + kThreads - 1) / kThreads); }

__device__ uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

__device__ float Normal(uint64_t seed, int64_t i) {
  const uint64_t bits = Mix(seed * 0x100000001b3ull + i);
  const float u = (static_cast<uint32_t>(bits) + 1.0f) / 4294967808.0f,
              w = static_cast<uint32_t>(bits >> 32) / 4294967296.0f;
  return sqrtf(-2 * logf(u)) * cosf(6.2831853f * w);
}

__device__ float Round(float x, int round) {
  if (round == 1) return __bfloat162float(__float2bfloat16_rn(x));
  return round == 2 ? __half2float(__float2half_rn(x)) : x;
}

__global__ void FillNormalKernel(float* out, int64_t count, uint64_t seed, float scale, int round) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count) out[i] = Round(scale * Normal(seed, i), round);
}

__global__ void ShiftKernel(__nv_bfloat16* to, const float* kb, int64_t count, int64_t start, int width,
                            int shift, float scale, uint64_t seed) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= count) return;
  const int64_t from = start + i / width - shift;
  to[i] = __float2bfloat16_rn(scale * (from >= 0 ? kb[from * width + i % width] : Normal(seed, i)));
}

__global__ void ToPagesKernel(char* plane, int64_t page_bytes, const int32_t* pages, const float* dense,
                              int first, int64_t count, int width, DType dtype) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= count) return;
  const int position = first + static_cast<int>(i / width), column = static_cast<int>(i % width);
  const float value = dense[static_cast<int64_t>(position) * width + column];
  char* page = plane + pages[position / kPageTokens] * page_bytes;
  const int64_t at = static_cast<int64_t>(position % kPageTokens) * width + column;
  if (dtype == DType::kF32) reinterpret_cast<float*>(page)[at] = value;
  if (dtype == DType::kBF16) reinterpret_cast<__nv_bfloat16*>(page)[at] = __float2bfloat16_rn(value);
  if (dtype == DType::kF16) reinterpret_cast<__half*>(page)[at] = __float2half_rn(value);
}

__global__ void ToBf16Kernel(__nv_bfloat16* to, const float* from, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count) to[i] = __float2bfloat16_rn(from[i]);
}

__device__ double Value(uint16_t bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); }

__device__ double BlockSum(double value, bool maximum) {
  __shared__ double scratch[8];
  for (int i = 16; i > 0; i /= 2) {
    const double other = __shfl_xor_sync(0xffffffffu, value, i);
    value = maximum ? fmax(value, other) : value + other;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[0];
  for (int i = 1; i < kThreads / 32; i++) value = maximum ? fmax(value, scratch[i]) : value + scratch[i];
  return value;
}

// weights (rows, columns): q_i . k_j over `width` numbers at q + row q_stride, k + j k_stride; 16 x 16 a
// block.
__global__ void ScoreKernel(double* weights, int64_t columns, const uint16_t* q, int64_t q_stride,
                            const float* k, int64_t k_stride, int width, int rows, double scale) {
  __shared__ double a[16][17], b[16][17];
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const int64_t i = blockIdx.y * 16 + y, j = blockIdx.x * 16 + x, bj = blockIdx.x * 16 + y;
  double sum = 0;
  for (int d = 0; d < width; d += 16) {
    a[y][x] = i < rows && d + x < width ? Value(q[i * q_stride + d + x]) : 0;
    b[y][x] = bj < columns && d + x < width ? k[bj * k_stride + d + x] : 0;
    __syncthreads();
    for (int t = 0; t < 16; t++) sum += a[y][t] * b[x][t];
    __syncthreads();
  }
  if (i < rows && j < columns) weights[i * columns + j] = sum * scale;
}

// Row i: softmax over its first start + i + inclusive columns, times gamma (1 without).
__global__ void SoftmaxKernel(double* weights, int64_t columns, int start, int inclusive,
                              const float* gamma) {
  const int count = start + blockIdx.x + inclusive;
  double* row = weights + blockIdx.x * columns;
  double largest = -INFINITY, sum = 0;
  for (int j = threadIdx.x; j < count; j += kThreads) largest = fmax(largest, row[j]);
  largest = BlockSum(largest, true);
  for (int j = threadIdx.x; j < count; j += kThreads) sum += row[j] = exp(row[j] - largest);
  sum = BlockSum(sum, false);
  const double factor = (gamma == nullptr ? 1.0 : gamma[blockIdx.x]) / sum;
  for (int j = threadIdx.x; j < count; j += kThreads) row[j] *= factor;
}

__global__ void ForwardKernel(double* out, int64_t out_stride, const double* weights, int64_t columns,
                              const float* v, int64_t v_stride, int width, int start) {
  const int count = start + blockIdx.x + 1;
  for (int d = threadIdx.x; d < width; d += blockDim.x) {
    double sum = 0;
    for (int j = 0; j < count; j++) sum += weights[blockIdx.x * columns + j] * v[j * v_stride + d];
    out[blockIdx.x * out_stride + d] = sum;
  }
}

// A block solves 8 columns of D, row after row.
__global__ void SolveKernel(double* s, const double* weights, int64_t columns, const float* f,
                            const float* past, int start, int rows, int D) {
  __shared__ double partial[32][9];
  const int c = threadIdx.x % 8, part = threadIdx.x / 8, column = blockIdx.x * 8 + c;
  for (int i = 0; i < rows; i++) {
    double sum = 0;
    if (column < D) {
      for (int j = part; j < start + i; j += 32) {
        sum += weights[i * columns + j] * (j < start ? past[static_cast<int64_t>(j) * D + column]
                                                     : s[static_cast<int64_t>(j - start) * D + column]);
      }
    }
    partial[part][c] = sum;
    __syncthreads();
    if (part == 0 && column < D) {
      sum = f[static_cast<int64_t>(i) * D + column];
      for (int k = 0; k < 32; k++) sum += partial[k][c];
      s[static_cast<int64_t>(i) * D + column] = sum;
    }
    __syncthreads();
  }
}

void Finished(const char* what) {
  CheckCuda(cudaGetLastError(), what);
  CheckCuda(cudaDeviceSynchronize(), what);
}

}  // namespace

void FillNormal(float* out, int64_t count, uint64_t seed, float scale, int round) {
  if (count > 0) FillNormalKernel<<<Blocks(count), kThreads>>>(out, count, seed, scale, round);
  Finished("FillNormal");
}

void ShiftedQueries(uint16_t* to, const float* kb, int64_t rows, int64_t start, int width, int shift,
                    float scale, uint64_t seed) {
  ShiftKernel<<<Blocks(rows * width), kThreads>>>(reinterpret_cast<__nv_bfloat16*>(to), kb, rows * width,
                                                  start, width, shift, scale, seed);
  Finished("ShiftedQueries");
}

void ToPages(char* plane, int64_t page_bytes, const int32_t* pages, const float* dense, int first, int end,
             int width, DType dtype) {
  const int64_t count = int64_t{end - first} * width;
  if (count > 0) {
    ToPagesKernel<<<Blocks(count), kThreads>>>(plane, page_bytes, pages, dense, first, count, width, dtype);
  }
  Finished("ToPages");
}

void ToBf16(uint16_t* to, const float* from, int64_t count) {
  ToBf16Kernel<<<Blocks(count), kThreads>>>(reinterpret_cast<__nv_bfloat16*>(to), from, count);
  Finished("ToBf16");
}

void ReferenceForward(const ReferenceSegment& p, double* out) {
  const int64_t columns = p.start + p.rows;
  const int d = p.D / p.heads, kv = p.kv_heads * d;
  DeviceArray<double> weights(p.rows * columns);
  const dim3 grid((columns + 15) / 16, (p.rows + 15) / 16);
  for (int h = 0; h < p.heads; h++) {
    const int kv_column = h / (p.heads / p.kv_heads) * d;
    ScoreKernel<<<grid, 256>>>(weights.get(), columns, p.q + h * d, p.D, p.k + kv_column, kv, d, p.rows,
                               1 / sqrt(static_cast<double>(d)));
    SoftmaxKernel<<<p.rows, kThreads>>>(weights.get(), columns, p.start, 1, nullptr);
    ForwardKernel<<<p.rows, 64>>>(out + h * d, p.D, weights.get(), columns, p.v + kv_column, kv, d, p.start);
  }
  Finished("ReferenceForward");
}

void ReferenceFeedback(const ReferenceSegment& p, double* out) {
  const int64_t columns = p.start + p.rows;
  DeviceArray<double> weights(p.rows * columns);
  const dim3 grid((columns + 15) / 16, (p.rows + 15) / 16);
  ScoreKernel<<<grid, 256>>>(weights.get(), columns, p.qb, p.D, p.kb, p.D, p.D, p.rows,
                             1 / sqrt(static_cast<double>(p.D)));
  SoftmaxKernel<<<p.rows, kThreads>>>(weights.get(), columns, p.start, 0, p.gamma);
  SolveKernel<<<(p.D + 7) / 8, 256>>>(out, weights.get(), columns, p.f, p.past_s, p.start, p.rows, p.D);
  Finished("ReferenceFeedback");
}

}  // namespace sessa::cuda
