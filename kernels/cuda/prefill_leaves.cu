// INV, base: (I - A)^-1 - I of the 128 x 128 diagonal blocks of A[i,j] = sigma_i P~[i,j], j < i.
//
// Blocks of 16 by substitution in float32, a thread a column: x_i = delta + sigma_i sum_{j<i} P~[i,j] x_j.
// Then pairs of blocks are joined, 16 to 32 to 64 to 128, on tensor cores: [[V11, 0], [V22 T, V22]], T =
// sigma P~21 V11. An error of a block's inverse doubles with every joining (an entry is a product over the
// tokens in between), so here V and T are pairs of fp16, high + low, as good as float32; P~ is exact. One
// rounding to fp16 comes at the end. Pairs of these are joined to 256 by a cluster of two blocks, half of the
// columns each, from fp16 as the levels above.
#include <cooperative_groups.h>
#include <cuda_fp16.h>

#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_overlap.cuh"

namespace sessa::cuda {
namespace {

constexpr int kStride =
    kBaseLeaf + 8;  // halves a shared row: 16 bytes more than 256, so that rows change banks
constexpr int kLeafThreads = 256;
constexpr int kMatrix = kBaseLeaf * kStride;
constexpr int kLeafShared = 5 * kMatrix * 2 + kBaseLeaf * 4;

// A matrix as high + low.
struct Split {
  __half *high, *low;
  __device__ void Store(int at, float x, float y) const {
    const __half2 rounded = __floats2half2_rn(x, y);
    const float2 back = __half22float2(rounded);
    *reinterpret_cast<__half2*>(high + at) = rounded;
    *reinterpret_cast<__half2*>(low + at) = __floats2half2_rn(x - back.x, y - back.y);
  }
};

__device__ __forceinline__ void LoadFragments(uint32_t (&x)[4], const __half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}

__device__ __forceinline__ void LoadTransposed(uint32_t (&x)[2], const __half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(x[0]), "=r"(x[1])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}

// d (16 x 8) += a (16 x 16) b (16 x 8).
__device__ __forceinline__ void Multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
      "%1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// For every pair of blocks of kHalf rows: c21 = a b, a at (kHalf, a_column) and b at (b_row, 0) of the pair,
// rows multiplied with sigma when given. a.low null: a is its high part alone. No block of c that is written
// is read.
template <int kHalf, bool kSplitA>
__device__ void JoinProduct(const Split& a, int a_column, const Split& b, int b_row, const Split& c,
                            const float* sigma) {
  constexpr int kPairs = kBaseLeaf / (2 * kHalf), kTiles = kPairs * (kHalf / 16) * (kHalf / 8);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int tile = warp; tile < kTiles; tile += kLeafThreads / 32) {
    const int pair = tile / (kTiles / kPairs), in_pair = tile % (kTiles / kPairs);
    const int row = in_pair / (kHalf / 8) * 16, column = in_pair % (kHalf / 8) * 8, origin = pair * 2 * kHalf;
    const int from_a = (origin + kHalf + row + lane % 16) * kStride + origin + a_column + lane / 16 * 8;
    const int from_b = (origin + b_row + lane % 16) * kStride + origin + column;
    float sum[4] = {}, small[4] = {};
#pragma unroll
    for (int k = 0; k < kHalf; k += 16) {
      uint32_t left[4], right[2], right_low[2];
      LoadFragments(left, a.high + from_a + k);
      LoadTransposed(right, b.high + from_b + k * kStride);
      LoadTransposed(right_low, b.low + from_b + k * kStride);
      Multiply(sum, left, right);
      Multiply(small, left, right_low);
      if constexpr (kSplitA) {
        LoadFragments(left, a.low + from_a + k);
        Multiply(small, left, right);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int i = origin + kHalf + row + lane / 4 + 8 * half;
      const float factor = sigma == nullptr ? 1 : sigma[i];
      c.Store(i * kStride + origin + column + lane % 4 * 2, factor * (sum[2 * half] + small[2 * half]),
              factor * (sum[2 * half + 1] + small[2 * half + 1]));
    }
  }
  __syncthreads();
}

template <int kHalf>
__device__ void Join(const Split& P, const Split& V, const Split& T, const float* sigma) {
  JoinProduct<kHalf, false>(P, 0, V, 0, T, sigma);           // T = sigma P21 V11
  JoinProduct<kHalf, true>(V, kHalf, T, kHalf, V, nullptr);  // V21 = V22 T
}

// The inverses of the eight 16 x 16 diagonal blocks; a thread has a column.
__device__ void SubstituteBlocks(const __half* P, const Split& V, const float* sigma) {
  const int block = threadIdx.x / 16 * 16, c = threadIdx.x % 16;
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const uint4* row = reinterpret_cast<const uint4*>(P + (block + i) * kStride + block);
    const uint4 packed[2] = {row[0], row[1]};
    const __half* weights = reinterpret_cast<const __half*>(packed);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < i; j++) sum += __half2float(weights[j]) * x[j];
    x[i] = (i == c ? 1 : 0) + sigma[block + i] * sum;
    const int at = (block + i) * kStride + block + c;
    V.high[at] = __float2half_rn(x[i]);
    V.low[at] = __float2half_rn(x[i] - __half2float(V.high[at]));
  }
}

// A thread has 8 columns of every 16th row of a 128 x 128 matrix.
constexpr int kPasses = kBaseLeaf / 16;
__device__ __forceinline__ int MyColumn() { return threadIdx.x % 16 * 8; }
__device__ __forceinline__ int MyRow(int pass) { return threadIdx.x / 16 + 16 * pass; }

// Loads rows [0, rows) of a matrix of weights (all loads at once), zeros behind them.
__device__ __forceinline__ void LoadWeights(uint4 (&to)[kPasses], const __half* from, int64_t stride,
                                            int rows) {
#pragma unroll
  for (int pass = 0; pass < kPasses; pass++) {
    to[pass] = make_uint4(0, 0, 0, 0);
    if (MyRow(pass) < rows)
      to[pass] = *reinterpret_cast<const uint4*>(from + MyRow(pass) * stride + MyColumn());
  }
}

__device__ __forceinline__ void StoreShared(__half* to, const uint4 (&from)[kPasses]) {
#pragma unroll
  for (int pass = 0; pass < kPasses; pass++) {
    *reinterpret_cast<uint4*>(to + MyRow(pass) * kStride + MyColumn()) = from[pass];
  }
}

// The strictly lower part of the inverse.
__device__ void StoreInverse(__half* to, const __half* V, int rows) {
  const int column = MyColumn();
#pragma unroll
  for (int pass = 0; pass < kPasses; pass++) {
    const int i = MyRow(pass);
    if (i >= rows) continue;
    uint4 packed = *reinterpret_cast<const uint4*>(V + i * kStride + column);
    __half* half = reinterpret_cast<__half*>(&packed);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      if (column + k >= i) half[k] = __float2half_rn(0);  // without the unit diagonal
    }
    *reinterpret_cast<uint4*>(to + int64_t{i} * kMaxLeaf + column) = packed;
  }
}

constexpr int kSlab = 64;  // columns of the joined block that one of the two blocks of threads computes

// sum = the warp's 16 rows of a (128 x 128) times 64 columns of b.
__device__ void SlabProduct(float (&sum)[kSlab / 8][4], const __half* a, const __half* b) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kBaseLeaf; k += 16) {
    uint32_t left[4];
    LoadFragments(left, a + (warp * 16 + lane % 16) * kStride + k + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < kSlab / 8; n++) {
      uint32_t right[2];
      LoadTransposed(right, b + (k + lane % 16) * kStride + 8 * n);
      Multiply(sum[n], left, right);
    }
  }
}

// W21's columns [slab, slab + 64): T = sigma (P21 V11), W21 = V22 T. P21 in shared memory, T is scratch
// there.
__device__ void JoinPair(const __half* P21, const __half* V11, const __half* V22, __half* T,
                         const float* sigma, int slab, __half* to, int rows) {
  const int first = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  float left[kSlab / 8][4] = {};
  SlabProduct(left, P21, V11 + slab);
#pragma unroll
  for (int n = 0; n < kSlab / 8; n++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int i = first + 8 * half;
      const float factor = i < rows ? sigma[i] : 0;
      *reinterpret_cast<__half2*>(T + i * kStride + 8 * n + column) =
          __floats2half2_rn(factor * left[n][2 * half], factor * left[n][2 * half + 1]);
    }
  }
  __syncthreads();
  float sum[kSlab / 8][4] = {};
  SlabProduct(sum, V22, T);
#pragma unroll
  for (int n = 0; n < kSlab / 8; n++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int i = first + 8 * half;
      if (i >= rows) continue;
      *reinterpret_cast<__half2*>(to + int64_t{i} * kMaxLeaf + slab + 8 * n + column) =
          __floats2half2_rn(sum[n][2 * half], sum[n][2 * half + 1]);
    }
  }
}

// Clusters exist since sm_90; the fast kernels run nowhere else.
__device__ __forceinline__ void ClusterSync() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cooperative_groups::this_cluster().sync();
#else
  __trap();
#endif
}

// The same place in the shared memory of the cluster's block `rank`.
__device__ __forceinline__ const __half* OtherShared(__half* mine, int rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().map_shared_rank(mine, rank);
#else
  __trap();
  return mine;
#endif
}

__global__ void __launch_bounds__(kLeafThreads)
    BaseLeafKernel(PrefillBuffers buffers, const LeafTile* tiles) {
  extern __shared__ uint4 shared4[];
  __half* matrices = reinterpret_cast<__half*>(shared4);
  const Split P = {matrices, nullptr}, V = {matrices + kMatrix, matrices + 2 * kMatrix},
              T = {matrices + 3 * kMatrix, matrices + 4 * kMatrix};
  float* sigma = reinterpret_cast<float*>(matrices + 5 * kMatrix);
  AllowNext();
  const LeafTile tile = tiles[blockIdx.x];
  const DeviceSegment segment = buffers.segments[tile.segment];
  const int rank = blockIdx.x % 2, low = tile.row + (1 - rank) * kBaseLeaf;  // the pair's second block
  const int valid = min(kBaseLeaf, segment.padded - tile.row);
  const int low_valid = tile.joined ? min(kBaseLeaf, segment.padded - low) : 0;
  const int64_t stride = buffers.panel_columns, base = segment.base + tile.row, low_base = segment.base + low;
  WaitForPrevious();

  uint4 weights[kPasses], low_weights[kPasses];
  LoadWeights(weights, buffers.panel + base * stride + tile.column, stride, valid);
  LoadWeights(low_weights, buffers.panel + low_base * stride + tile.column - rank * kBaseLeaf, stride,
              low_valid);
  if (threadIdx.x < kBaseLeaf) {
    sigma[threadIdx.x] = static_cast<int>(threadIdx.x) < valid ? buffers.sigma[base + threadIdx.x] : 0;
  }
  const uint4 zeros[kPasses] = {};
  StoreShared(P.high, weights);
  StoreShared(V.high, zeros);
  StoreShared(V.low, zeros);
  __syncthreads();
  if (threadIdx.x < kBaseLeaf) SubstituteBlocks(P.high, V, sigma);
  __syncthreads();
  Join<16>(P, V, T, sigma);
  Join<32>(P, V, T, sigma);
  Join<64>(P, V, T, sigma);
  StoreInverse(buffers.inverse + base * kMaxLeaf + tile.leaf_column, V.high, valid);
  if (!tile.joined) return;  // nor is the other block of the cluster

  ClusterSync();
  const __half* remote = OtherShared(V.high, 1 - rank);
  uint4 other[kPasses];
#pragma unroll
  for (int pass = 0; pass < kPasses; pass++) {
    other[pass] = *reinterpret_cast<const uint4*>(remote + MyRow(pass) * kStride + MyColumn());
  }
  StoreShared(T.high, other);
  StoreShared(P.high, low_weights);
  __syncthreads();
  JoinPair(P.high, rank == 0 ? V.high : T.high, rank == 0 ? T.high : V.high, V.low, buffers.sigma + low_base,
           rank * kSlab, buffers.inverse + low_base * kMaxLeaf + tile.leaf_column - rank * kBaseLeaf,
           low_valid);
  ClusterSync();  // the other block has read V
}

}  // namespace

cudaError_t LaunchBaseLeaves(const PrefillBuffers& buffers, const LeafTile* tiles, int count,
                             cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  static const cudaError_t configured =
      cudaFuncSetAttribute(BaseLeafKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kLeafShared);
  if (configured != cudaSuccess) return configured;
  return LaunchOverlapped<2>(BaseLeafKernel, count, kLeafThreads, kLeafShared, stream, buffers, tiles);
}

}  // namespace sessa::cuda
