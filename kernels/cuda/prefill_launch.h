// The launchers between prefill_feedback.cc and the kernels of the feedback solve. Internal to prefill_*.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/prefill_maps.h"
#include "kernels/cuda/prefill_tables.h"

namespace sessa::cuda {

// Device pointers of a layer's prefill, resolved from a PrefillContext.
struct PrefillBuffers {
  const DeviceSegment* segments = nullptr;
  const int32_t* page_table = nullptr;
  int32_t D = 0;
  int32_t padded_rows = 0;  // of them in use
  int32_t width = 0;        // row length of r, r_half, s_half, planes
  int32_t panel_columns = 0;
  __half* panel = nullptr;
  float2* stats = nullptr;
  float *row_max = nullptr, *row_sum = nullptr, *sigma = nullptr, *rescale = nullptr;  // (rows)
  __half* inverse = nullptr;                                                           // (rows, kMaxLeaf)
  __half* product = nullptr;                                                           // (rows, kMaxLeaf / 2)
  float* planes = nullptr;
  float* r = nullptr;
  __half* r_half = nullptr;
  __half* s_half = nullptr;
  // State: the layer's planes in page 0, and the layer's rows in open page 0.
  char* kb_plane = nullptr;
  char* s_plane = nullptr;
  char* open_plane = nullptr;
  int64_t page_bytes = 0, open_page_bytes = 0;
  int32_t page_count = 0;
  int32_t multiprocessors = 0;
};

PrefillBuffers ResolveBuffers(const PrefillContext& context);

// SCORE: P~ and the rows' maxima and sums of a panel's tiles. qb (rows of the step, D) bf16.
cudaError_t LaunchScore(const PrefillBuffers& buffers, const ScoreTile* tiles, int count, const void* qb,
                        int32_t qb_rows, cudaStream_t stream);

// NORM: joins the panel's maxima and sums with those of the panels before it, brings P~ to the joint maximum,
// and for the last panel (index 0) forms sigma = gamma / sum.
cudaError_t LaunchWeightNorm(const PrefillBuffers& buffers, const SolveRows* rows, int count,
                             int32_t panel_index, const float* gamma, cudaStream_t stream);

enum class ProductKind {
  kPast,         // planes = [planes * rescale +] P~ s of closed pages
  kRight,        // r = f + sigma * (the same): the right-hand side at once, where sums are not split
  kRightOut,     // r = o W_o^T + sigma * (the same)
  kInverseLeft,  // T = sigma (P21 + P21 W11)
  kInverse,      // W21 = T + W22 T
  kUpdate,       // r += sigma P~ s of rows solved before
  kLeaf,         // s = r + W r
};

// Of the rows of the step, (rows, D): see PrefillFeedbackParams.
struct SolveOperands {
  const float* f = nullptr;
  const void *o = nullptr, *out_weight = nullptr;
  float* s = nullptr;
  const float* g = nullptr;
  void* u = nullptr;
  unsigned long long* saturations = nullptr;
  int32_t rows = 0;  // that the arrays have
};

cudaError_t LaunchProduct(const PrefillBuffers& buffers, ProductKind product, int tile_columns,
                          const ProductTile* tiles, int count, const SolveOperands& operands,
                          cudaStream_t stream);

// INV, base: inverses of the 128 x 128 diagonal blocks.
cudaError_t LaunchBaseLeaves(const PrefillBuffers& buffers, const LeafTile* tiles, int count,
                             cudaStream_t stream);

// r = f + sigma * (sum of planes), the open page's s in rows before the segment, 0 in padding: where sums are
// split.
cudaError_t LaunchRightSide(const PrefillBuffers& buffers, const SolveRows* rows, int count, const float* f,
                            cudaStream_t stream);

// Solves the short segments row by row, in float32.
cudaError_t LaunchSubstitute(const PrefillBuffers& buffers, int segments, const SolveOperands& operands,
                             cudaStream_t stream);

// The plain kernels: any shape, any state type, any card.
cudaError_t LaunchPlainForward(const PrefillContext& context, const PrefillForwardParams& params,
                               cudaStream_t stream);
cudaError_t LaunchPlainSolve(const PrefillContext& context, const PrefillFeedbackParams& params,
                             cudaStream_t stream);
// The tensor-core forward kernel, for head widths 64 and 128, on so many multiprocessors.
cudaError_t LaunchFlashForward(const PrefillContext& context, const PrefillForwardParams& params,
                               int32_t multiprocessors, cudaStream_t stream);

}  // namespace sessa::cuda
