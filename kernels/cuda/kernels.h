// Launchers of the backend's own kernels (prefill.h has those of prefill). All are asynchronous on `stream`
// and return the error of the launch; pointers are to device memory unless said otherwise. Shapes stand on
// each pointer: D model width, K its row pitch in bf16 activations and weights (D rounded up to 8, the rest
// zero), kv = Hkv d, V vocabulary. Equations: docs/sessa-model.md.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/device_types.h"

namespace sessa::cuda {

// How kernels are launched; the same for a whole pass.
struct LaunchContext {
  cudaStream_t stream = nullptr;
  bool dependent = false;  // programmatic dependent launch
};

// x_0 = embed[token], and the rotary angles of each row's position.
struct EmbedParams {
  const RowMeta* rows;   // (rows)
  const int32_t* slots;  // tokens sampled last
  const void* embed;     // (V, K) bf16
  const float* theta;    // (d / 2), or null
  float* x;              // (rows, D)
  float2* rotation;      // (rows, d / 2) cosine, sine of position * theta_i
  int32_t row_count, width, pitch, vocab, half_head;
};
cudaError_t LaunchEmbed(const EmbedParams& params, const LaunchContext& context);

// n = LayerNorm(x), biased variance. Row r of n is made from row outputs[r].row of x, or r.
struct NormParams {
  const float* x;             // (rows, D)
  const OutputMeta* outputs;  // (row_count), or null
  const float* weight;        // (D)
  const float* bias;          // (D)
  void* n;                    // (row_count, K) bf16
  int32_t row_count, width, pitch;
  float eps;
};
cudaError_t LaunchNorm(const NormParams& params, const LaunchContext& context);

// What becomes of the outputs of a linear layer y = X W^T. Each applies to single rows, so that the decode
// GEMM can do it on its own tile and LaunchEpilogue on a finished float32 product.

// [a, g] = y + b;  abar = GELU(a).                                   outputs: 2D
struct InEpilogueParams {
  const float* bias;  // (2D)
  void* abar;         // (rows, K) bf16
  float* g;           // (rows, D)
  int32_t width, pitch;
};
// [q|k|v|qb|kb|gamma] = y + b; RoPE on q and k; gamma = gamma_max tanh(.); k, v, kb to pages.
//                                                                    outputs: 3D + 2kv + 1
struct ProjectEpilogueParams {
  const float* bias;       // (3D + 2kv + 1)
  const RowMeta* rows;     // (rows)
  const int32_t* pages;    // page tables
  const float2* rotation;  // (rows, d / 2), or null: no RoPE
  float* q;                // decode: (rows, D) float32 ...
  float* qb;
  void* q_bf16;  // ... prefill: (rows, D) bf16; the other pair is null
  void* qb_bf16;
  float* gamma;  // (rows)
  LayerState state;
  float gamma_max;
  int32_t head_width;
};
// f = y;  s = f + gamma ctx;  s to pages;  u = s * g.                outputs: D
struct FeedbackEpilogueParams {
  const RowMeta* rows;
  const int32_t* pages;
  const float* gamma;  // (rows)
  const float* ctx;    // (rows, D)
  const float* g;      // (rows, D)
  void* u;             // (rows, K) bf16
  LayerState state;
  unsigned long long* saturations;  // counts values of s beyond fp16
  int32_t pitch;
};
// x += y + b.                                                        outputs: D
struct ResidualEpilogueParams {
  const float* bias;  // (D)
  float* x;           // (rows, D)
  int32_t width;
};
// out = y.                                                           outputs: any
struct StoreEpilogueParams {
  float* out;  // (rows, pitch)
  int64_t pitch;
};

// y = X W^T for few rows: bf16 operands, float32 accumulation on tensor cores. Row results are bitwise
// independent of the other rows: K is cut into eight strands by its length alone, each accumulated in
// ascending order, and the strands are added in order.
struct DecodeGemm {
  const void* weight;  // (outputs, K) bf16
  const void* x;       // (rows, K) bf16
  int32_t outputs, rows, pitch;
};
cudaError_t LaunchDecodeGemm(const DecodeGemm& gemm, const InEpilogueParams& epilogue,
                             const LaunchContext& context);
cudaError_t LaunchDecodeGemm(const DecodeGemm& gemm, const ProjectEpilogueParams& epilogue,
                             const LaunchContext& context);
cudaError_t LaunchDecodeGemm(const DecodeGemm& gemm, const FeedbackEpilogueParams& epilogue,
                             const LaunchContext& context);
cudaError_t LaunchDecodeGemm(const DecodeGemm& gemm, const ResidualEpilogueParams& epilogue,
                             const LaunchContext& context);
cudaError_t LaunchDecodeGemm(const DecodeGemm& gemm, const StoreEpilogueParams& epilogue,
                             const LaunchContext& context);

// The epilogue over a product that lies in memory: y (rows, pitch) float32.
struct Product {
  const float* y;
  int32_t outputs, rows;
  int64_t pitch;
};
cudaError_t LaunchEpilogue(const Product& product, const InEpilogueParams& epilogue,
                           const LaunchContext& context);
cudaError_t LaunchEpilogue(const Product& product, const ProjectEpilogueParams& epilogue,
                           const LaunchContext& context);
cudaError_t LaunchEpilogue(const Product& product, const FeedbackEpilogueParams& epilogue,
                           const LaunchContext& context);

// u = s * g, (rows, K) bf16 from (rows, D) float32.
cudaError_t LaunchGate(const float* s, const float* g, void* u, int32_t rows, int32_t width, int32_t pitch,
                       const LaunchContext& context);
// (rows, D) bf16 to float32, or to (rows, K) bf16: o of prefill as f (one head), or as a GEMM operand.
cudaError_t LaunchWiden(const void* in, float* out, int64_t count, const LaunchContext& context);
cudaError_t LaunchRepitch(const void* in, void* out, int32_t rows, int32_t width, int32_t pitch,
                          const LaunchContext& context);

// Both attentions of decode rows:
//   o_h = sum_{j<=t} softmax_j(q_h . k_j,h' d^-1/2) v_j,h',   ctx = sum_{j<t} softmax_j(qb . kb_j D^-1/2) s_j
struct AttentionParams {
  const RowMeta* rows;
  const int32_t* pages;
  const DecodeHeader* header;
  const int32_t* feedback_runs;  // (row_count + 1) runs of the rows (attention_schedule.h), running
  const int32_t* forward_runs;   // (row_count + 1)
  const float* q;                // (rows, D)
  const float* qb;               // (rows, D)
  void* o_bf16;                  // (rows, K), or null
  float* o;                      // (rows, D), or null
  float* ctx;                    // (rows, D)
  float* partials;               // results of runs, units or leaves; AttentionShape::partial_floats each
  int32_t* arrivals;             // AttentionShape::kCounters for each of them; 0 between launches
  int32_t* next_item;            // (2) counters; 0 between launches
  LayerState state;
  int32_t row_count, pitch;
  int32_t heads, kv_heads, head_width;
};
// What the split-KV kernel needs for a shape and a card.
struct AttentionShape {
  static constexpr int32_t kCounters = 24;

  bool fast = false;           // else LaunchGenericAttention
  int32_t group_heads = 1;     // query heads of one key head that an item covers
  int32_t forward_chunks = 1;  // items that a unit of one row's forward attention takes
  int64_t partial_floats = 0;  // of an item's result
  int32_t warps = 0;           // that compute either attention on a multiprocessor; leaves of a unit
  int32_t feedback_slots = 0, forward_slots = 0;  // of the rings
  int32_t shared_bytes = 0;
};
// `shared_limit`: bytes of shared memory that a block of threads may have.
AttentionShape PlanAttention(int32_t width, int32_t heads, int32_t kv_heads, bool f32_state,
                             int64_t shared_limit);
// The split-KV form. Unlike other kernels it reads state before its predecessor has ended: kernels in front
// of it must not let it begin (PdlTrigger) before their own PdlWait.
cudaError_t LaunchDecodeAttention(const AttentionParams& params, const AttentionShape& shape,
                                  int32_t multiprocessors, const LaunchContext& context);
// Any shape and state type, one block of threads a row and head; slow.
cudaError_t LaunchGenericAttention(const AttentionParams& params, const LaunchContext& context);

// Draws or scores rows of logits (kernels/host_sampler.h, steps 6 to 10, and log-probabilities of targets).
struct SampleKernelParams {
  static constexpr int32_t kFewOutputs = 2;

  const float* logits;                  // (row_count, pitch)
  const OutputMeta* outputs;            // (row_count), or null:
  OutputMeta few_outputs[kFewOutputs];  // here they are
  int32_t* slots;
  SampleResult* results;  // (row_count); may be the host's, pinned
  const unsigned long long* saturations;
  unsigned long long* saturations_copy;  // the same for this number, which is copied to it; null: not copied
  int32_t row_count, vocab;
  int64_t pitch;
};
cudaError_t LaunchSample(const SampleKernelParams& params, const LaunchContext& context);

}  // namespace sessa::cuda
