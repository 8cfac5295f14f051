// The row-wise ends of the feedback solve: its right-hand side, and the direct solution of short segments.
#include "kernels/cuda/prefill_append.cuh"
#include "kernels/cuda/prefill_overlap.cuh"

namespace sessa::cuda {
namespace {

struct RightSideParams {
  PrefillBuffers buffers;
  const SolveRows* rows;
  const float* f;
};

// r = f + sigma * (sum of planes) for new rows; the open page's float32 s before them; 0 behind them. A block
// a row.
__global__ void __launch_bounds__(256) RightSideKernel(RightSideParams p) {
  const PrefillBuffers& buffers = p.buffers;
  AllowNext();
  const SolveRows at = p.rows[blockIdx.x / kTileRows];
  const DeviceSegment segment = buffers.segments[at.segment];
  const int i = at.row + blockIdx.x % kTileRows;
  WaitForPrevious();
  if (i >= segment.padded) return;
  const int64_t row = segment.base + i;
  const bool known = i < segment.lead, padding = i >= segment.lead + segment.rows;
  const float* from =
      known
          ? reinterpret_cast<const float*>(buffers.open_plane + segment.open_page * buffers.open_page_bytes) +
                static_cast<int64_t>(i) * buffers.D
          : p.f + static_cast<int64_t>(segment.first_row + i - segment.lead) * buffers.D;
  const float sigma = buffers.sigma[row];
  const int planes = known || padding ? 0 : segment.planes;
  for (int column = threadIdx.x * 4; column < buffers.width; column += 1024) {
    float4 r = make_float4(0, 0, 0, 0);
    if (!padding && column < buffers.D) r = *reinterpret_cast<const float4*>(from + column);
    float4 past = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int plane = 0; plane < kMaxPlanes; plane++) {
      if (plane >= planes) break;
      const float4 part = *reinterpret_cast<const float4*>(
          buffers.planes + (static_cast<int64_t>(plane) * buffers.padded_rows + row) * buffers.width +
          column);
      past.x += part.x, past.y += part.y, past.z += part.z, past.w += part.w;
    }
    r.x += sigma * past.x, r.y += sigma * past.y, r.z += sigma * past.z, r.w += sigma * past.w;
    *reinterpret_cast<float4*>(buffers.r + row * buffers.width + column) = r;
    __half2 half[2] = {ClampToHalf(make_float2(r.x, r.y)), ClampToHalf(make_float2(r.z, r.w))};
    *reinterpret_cast<uint2*>(buffers.r_half + row * buffers.width + column) =
        *reinterpret_cast<uint2*>(half);
  }
}

constexpr int kSubstituteThreads = 256;
constexpr int kWarpColumns = 8;  // of D that a warp solves; its lanes split the sum over j in four
constexpr int kSubstituteColumns = kSubstituteThreads / 32 * kWarpColumns;
constexpr int kSubstituteShared =
    (kBaseLeaf * (kBaseLeaf + 1) + kSubstituteThreads / 32 * kBaseLeaf * kWarpColumns) * 4;

// s_i = r_i + sum_{j<i} sigma_i P~[i,j] s_j within the segment's padded rows, one after the other.
__global__ void __launch_bounds__(kSubstituteThreads)
    SubstituteKernel(PrefillBuffers buffers, SolveOperands operands) {
  extern __shared__ float shared[];
  AllowNext();
  WaitForPrevious();
  const DeviceSegment& segment = buffers.segments[blockIdx.y];
  if (!segment.substitute) return;
  float* A = shared;  // (128, 129)
  const int rows = segment.lead + segment.rows;
  const int origin = max(0, segment.columns - buffers.panel_columns);
  const __half* panel = buffers.panel + static_cast<int64_t>(segment.base) * buffers.panel_columns +
                        (segment.block_start - origin);
  for (int k = threadIdx.x; k < rows * kBaseLeaf; k += kSubstituteThreads) {
    const int i = k / kBaseLeaf, j = k % kBaseLeaf;
    A[i * (kBaseLeaf + 1) + j] =
        j < i ? buffers.sigma[segment.base + i] * __half2float(panel[i * int64_t{buffers.panel_columns} + j])
              : 0;
  }
  __syncthreads();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* s = shared + kBaseLeaf * (kBaseLeaf + 1) + warp * kBaseLeaf * kWarpColumns;  // (128, 8)
  const int c = lane % kWarpColumns, part = lane / kWarpColumns;
  const int column = blockIdx.x * kSubstituteColumns + warp * kWarpColumns + c;
  const float* r = buffers.r + static_cast<int64_t>(segment.base) * buffers.width + column;
  const bool inside = column < buffers.width;
  for (int i = part; i < rows; i += 4) s[i * kWarpColumns + c] = inside ? r[int64_t{i} * buffers.width] : 0;
  __syncwarp();
  for (int i = segment.lead; i < rows; i++) {
    float sum = 0;
    for (int j = part; j < i; j += 4) sum += A[i * (kBaseLeaf + 1) + j] * s[j * kWarpColumns + c];
    sum += __shfl_xor_sync(0xffffffffu, sum, 8);
    sum += __shfl_xor_sync(0xffffffffu, sum, 16);
    const float value = s[i * kWarpColumns + c] + sum;
    __syncwarp();
    if (part == 0) s[i * kWarpColumns + c] = value;
    __syncwarp();
  }
  // Pairs of columns, as the state wants them.
  const int pair = lane % (kWarpColumns / 2) * 2;
  const int first = blockIdx.x * kSubstituteColumns + warp * kWarpColumns + pair;
  int saturated = 0;
  for (int i = segment.lead + lane / 4; i < rows && first < buffers.D; i += 8) {
    const float2 value = make_float2(s[i * kWarpColumns + pair], s[i * kWarpColumns + pair + 1]);
    const SolvedRow row = FindSolvedRow(buffers, segment, i, operands);
    const float2 gate =
        row.g != nullptr ? *reinterpret_cast<const float2*>(row.g + first) : make_float2(0, 0);
    saturated += StoreSolved(row, first, value, gate);
    *reinterpret_cast<__half2*>(row.page + first) = ClampToHalf(value);
  }
  CountSaturations(operands, saturated);
}

}  // namespace

cudaError_t LaunchRightSide(const PrefillBuffers& buffers, const SolveRows* rows, int count, const float* f,
                            cudaStream_t stream) {
  return LaunchOverlapped(RightSideKernel, count * kTileRows, 256, 0, stream,
                          RightSideParams{buffers, rows, f});
}

cudaError_t LaunchSubstitute(const PrefillBuffers& buffers, int segments, const SolveOperands& operands,
                             cudaStream_t stream) {
  static const cudaError_t configured =
      cudaFuncSetAttribute(SubstituteKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSubstituteShared);
  if (configured != cudaSuccess) return configured;
  const dim3 grid((buffers.width + kSubstituteColumns - 1) / kSubstituteColumns, segments);
  return LaunchOverlapped(SubstituteKernel, grid, kSubstituteThreads, kSubstituteShared, stream, buffers,
                          operands);
}

}  // namespace sessa::cuda
