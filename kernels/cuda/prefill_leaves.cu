// INV, base: (I - A)^-1 - I of the 128 x 128 diagonal blocks of A[i,j] = sigma_i P~[i,j], j < i, in float32.
//
// Blocks of 16 by substitution, a thread a column: x_i = delta + sum_{j<i} A[i,j] x_j; then pairs of blocks are
// joined, 16 to 32 to 64 to 128: [[V11, 0], [V22 A21 V11, V22]].
#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_overlap.cuh"

namespace sessa::cuda {
namespace {

constexpr int kStride = kBaseLeaf + 4;  // floats a shared row
constexpr int kLeafThreads = 256;
constexpr int kLeafShared = 2 * kBaseLeaf * kStride * 4;

// c (half x half, at c) = a b for every pair of blocks, with a, b, c given by their offsets in the pair's 2 half
// square; a and b may be the same array as c: results are stored after all were computed.
template <int kHalf>
__device__ void JoinProduct(const float* a, int a_row, int a_column, const float* b, int b_row, int b_column,
                            float* c) {
  constexpr int kPairs = kBaseLeaf / (2 * kHalf);
  constexpr int kOutputs = kPairs * kHalf * kHalf;
  constexpr int kRows = kOutputs / kLeafThreads >= 16 ? 4 : kOutputs / kLeafThreads / 4;  // of a thread's block
  constexpr int kBlocks = kOutputs / (kRows * 4);                                         // <= threads
  static_assert(kBlocks == kLeafThreads && kRows >= 1);
  const int index = threadIdx.x;
  const int pair = index / (kBlocks / kPairs), block = index % (kBlocks / kPairs);
  const int row = block / (kHalf / 4) * kRows, column = block % (kHalf / 4) * 4;
  const int origin = pair * 2 * kHalf;
  const float* from_a = a + (origin + a_row + row) * kStride + origin + a_column;
  const float* from_b = b + (origin + b_row) * kStride + origin + b_column + column;
  float sum[kRows][4] = {};
#pragma unroll 2
  for (int k = 0; k < kHalf; k += 4) {
    float4 right[4];
#pragma unroll
    for (int t = 0; t < 4; t++) right[t] = *reinterpret_cast<const float4*>(from_b + (k + t) * kStride);
#pragma unroll
    for (int i = 0; i < kRows; i++) {
      const float4 left4 = *reinterpret_cast<const float4*>(from_a + i * kStride + k);
      const float left[4] = {left4.x, left4.y, left4.z, left4.w};
#pragma unroll
      for (int t = 0; t < 4; t++) {
        sum[i][0] += left[t] * right[t].x, sum[i][1] += left[t] * right[t].y;
        sum[i][2] += left[t] * right[t].z, sum[i][3] += left[t] * right[t].w;
      }
    }
  }
  __syncthreads();
  float* to = c + (origin + kHalf + row) * kStride + origin + column;  // always the lower left block
#pragma unroll
  for (int i = 0; i < kRows; i++) {
    *reinterpret_cast<float4*>(to + i * kStride) = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
  }
  __syncthreads();
}

// V21 = V22 (A21 V11); A21 is overwritten.
template <int kHalf>
__device__ void Join(float* A, float* V) {
  JoinProduct<kHalf>(A, kHalf, 0, V, 0, 0, A);
  JoinProduct<kHalf>(V, kHalf, kHalf, A, kHalf, 0, V);
}

__global__ void __launch_bounds__(kLeafThreads) BaseLeafKernel(PrefillBuffers buffers, const LeafTile* tiles) {
  extern __shared__ float4 shared4[];
  AllowNext();
  WaitForPrevious();
  float* A = reinterpret_cast<float*>(shared4);
  float* V = A + kBaseLeaf * kStride;
  const LeafTile tile = tiles[blockIdx.x];
  const DeviceSegment& segment = buffers.segments[tile.segment];
  const int64_t base = segment.base + tile.row;
  const int valid = min(kBaseLeaf, segment.padded - tile.row);

  // A thread has 8 columns of every 16th row; all its loads are under way at once.
  const int column = threadIdx.x % 16 * 8, first_row = threadIdx.x / 16;
  constexpr int kPasses = kBaseLeaf / 16;
  uint4 weights[kPasses];
  float sigma[kPasses];
#pragma unroll
  for (int pass = 0; pass < kPasses; pass++) {
    const int i = first_row + 16 * pass;
    weights[pass] = make_uint4(0, 0, 0, 0);
    sigma[pass] = 0;
    if (i < valid && column < i) {
      sigma[pass] = buffers.sigma[base + i];
      weights[pass] = *reinterpret_cast<const uint4*>(buffers.panel + (base + i) * buffers.panel_columns +
                                                      tile.column + column);
    }
  }
#pragma unroll
  for (int pass = 0; pass < kPasses; pass++) {
    const int i = first_row + 16 * pass;
    const __half* half = reinterpret_cast<const __half*>(&weights[pass]);
    float* a = A + i * kStride + column;
    float* v = V + i * kStride + column;
#pragma unroll
    for (int k = 0; k < 8; k++) {
      a[k] = column + k < i ? sigma[pass] * __half2float(half[k]) : 0;
      v[k] = 0;
    }
  }
  __syncthreads();

  if (threadIdx.x < kBaseLeaf) {
    const int block = threadIdx.x / 16 * 16, c = threadIdx.x % 16;
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
      float sum = i == c ? 1 : 0;
#pragma unroll
      for (int j = 0; j < i; j++) sum += A[(block + i) * kStride + block + j] * x[j];
      x[i] = sum;
      V[(block + i) * kStride + block + c] = sum;
    }
  }
  __syncthreads();
  Join<16>(A, V);
  Join<32>(A, V);
  Join<64>(A, V);

#pragma unroll
  for (int pass = 0; pass < kPasses; pass++) {
    const int i = first_row + 16 * pass;
    if (i >= valid) continue;
    uint4 packed;
    __half* half = reinterpret_cast<__half*>(&packed);
#pragma unroll
    for (int k = 0; k < 8; k++) half[k] = __float2half_rn(column + k < i ? V[i * kStride + column + k] : 0);
    *reinterpret_cast<uint4*>(buffers.inverse + (base + i) * kMaxLeaf + tile.leaf_column + column) = packed;
  }
}

}  // namespace

cudaError_t LaunchBaseLeaves(const PrefillBuffers& buffers, const LeafTile* tiles, int count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  static const cudaError_t configured =
      cudaFuncSetAttribute(BaseLeafKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kLeafShared);
  if (configured != cudaSuccess) return configured;
  return LaunchOverlapped(BaseLeafKernel, count, kLeafThreads, kLeafShared, stream, buffers, tiles);
}

}  // namespace sessa::cuda
