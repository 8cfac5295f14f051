// The decode pass of one or two rows as one kernel, from the embeddings to the logits (docs/kernels.md). It
// computes bit for bit what the kernels of kernels.h compute one after the other.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/device_types.h"
#include "kernels/cuda/kernels.h"

namespace sessa::cuda {

// The most it takes: rows, and units (attention_schedule.h) of either attention, of all rows together.
inline constexpr int32_t kFewRows = 2;
inline constexpr int32_t kFewUnits = 48;
inline constexpr int32_t kFewPages = 2 * kFewUnits;  // of all rows: a unit is two, if the last may be a part
inline constexpr int32_t kFewLine = 16;              // words of eight columns in a mailbox

// What a layer is made of, in device memory. Shapes as in weights.h; K = row pitch of matrices.
struct FewRowsLayer {
  const float* norm_weight;    // (D)
  const float* norm_bias;      // (D)
  const void* in;              // (2D, K) bf16
  const float* in_bias;        // (2D)
  const void* project;         // (3D + 2kv + 1, K) bf16
  const float* project_bias;   // (3D + 2kv + 1)
  const void* out;             // (D, K) bf16
  const void* residual;        // (D, K) bf16
  const float* residual_bias;  // (D)
  LayerState state;
};

// Where the blocks of threads leave numbers for each other (mailbox.cuh); rows of each are kFewRows.
struct FewRowsMail {
  unsigned long long* x;     // (D / 8, kFewLine): rows of 8 floats
  unsigned long long* abar;  // (D / 8, kFewLine): rows of 4 pairs of bf16, as o and u
  unsigned long long* y;     // (rows, y_pitch) float: q, k, v, qb, kb, gamma
  unsigned long long* o;
  unsigned long long* u;
  unsigned long long* parts;  // items of the attentions, AttentionShape::partial_floats each
};

// What the kernel must know of a step. It travels with the launch, so that nothing is copied before.
struct FewRowsTables {
  RowMeta rows[kFewRows];  // the live ones first
  int32_t output_rows[kFewRows];
  int32_t feedback_first[kFewRows + 1];  // units of the rows, running
  int32_t forward_first[kFewRows + 1];
  uint32_t epoch;  // it and the layer_count numbers after it are new since the mailboxes were zero
  int32_t pages[kFewPages];
};

struct FewRowsParams {
  const FewRowsLayer* layers;  // (layer_count), on the device
  FewRowsTables tables;
  const int32_t* slots;      // tokens sampled last
  const void* embed;         // (V, K) bf16
  const float* theta;        // (d / 2), or null: no RoPE
  const float* norm_weight;  // (D), after the last layer
  const float* norm_bias;
  const void* head;  // (V, K) bf16
  float* logits;     // (output_count, V)
  unsigned long long* saturations;
  FewRowsMail mail;
  AttentionShape attention;
  int32_t layer_count, row_count, output_count, vocab;
  int32_t width, pitch, kv, head_width, project_outputs, y_pitch;
  int32_t head_shift;     // head_width = 1 << head_shift
  int32_t group;          // query heads of a key head
  int32_t column_chunks;  // 256 columns of k each
  float norm_eps, gamma_max;
};

// Whether the kernel can run a model of this shape with compact state on the current device, one block of
// threads on each of its multiprocessors.
bool FewRowsFits(int32_t width, int32_t heads, int32_t project_outputs, int32_t multiprocessors,
                 const AttentionShape& attention);

// Bytes of the mailboxes, which must be zero at first, and their places in it.
int64_t FewRowsMailBytes(int32_t width, int32_t y_pitch, const AttentionShape& attention);
FewRowsMail FewRowsMailAt(void* memory, int32_t width, int32_t y_pitch);

// Not a programmatic dependent: it begins when all before it has ended.
cudaError_t LaunchFewRows(const FewRowsParams& params, int32_t multiprocessors, cudaStream_t stream);

}  // namespace sessa::cuda
