// The compute kernels of the CPU backend as plain functions over raw pointers. They are compiled several
// times, once for each instruction set, each time in a translation unit of its own; this table is all that
// crosses between.
//
// Every kernel computes a row of its output from that row's inputs alone, in an order that depends neither on
// the other rows nor on how the caller cuts the work. So rows and columns may be given to threads in any way.
//
// Activations that feed a matrix product ("operands") are bf16 or float32, as `bf16` says; all else is
// float32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sessa::cpu {

inline constexpr int kPanelOutputs = 64;  // outputs of a panel of packed weights
inline constexpr int kLanes = 16;         // outputs of a vector; 4 to a panel
inline constexpr int kBlock = 64;         // tokens of a block of attention: a page

// Weights (outputs, inputs), packed by panels of 64 outputs; a panel is, for each input (bf16: each pair of
// inputs), 64 weights (pairs). Missing outputs and the odd input are zeros.
struct Matrix {
  const void* data = nullptr;
  const float* bias = nullptr;  // (64 panels), zeros where there is none
  int32_t inputs = 0;           // as padded: even for bf16
  int32_t panels = 0;
  int64_t bytes_per_panel = 0;
};

// Rows [row_begin, row_end) x panels [panel_begin, panel_end) of a matrix product.
struct Tile {
  int32_t row_begin, row_end;
  int32_t panel_begin, panel_end;
};

struct LayerNormArgs {
  const float* x;          // (rows, stride)
  const int32_t* row_ids;  // row r of the output is row row_ids[r] of x; nullptr: row r
  int32_t width;
  const float *weight, *bias;  // (width)
  float eps;
  void* out;           // operand (rows, out_stride)
  int32_t out_stride;  // numbers
};

// [a, g] = n W^T + b; abar = GELU(a). Outputs: a (padded to 16), then g.
struct NormInArgs {
  const void* n;  // operand; row 0 is row `first_row` of the batch
  int32_t n_stride;
  int32_t first_row;
  Matrix w;
  int32_t width;
  const float* gamma_weight;  // (padded width)
  void* abar;                 // operand (rows, operand_stride)
  int32_t operand_stride;
  float* g;              // (rows, width)
  float* gamma_partial;  // (rows, gamma_panels): sums of abar w_gamma over the outputs of a panel
  int32_t gamma_panels;
};

// Where a row's state goes, for one layer at a time: plane p of the row lies at page + plane_offset[p] +
// slot * plane_row_bytes[p].
struct RowState {
  std::byte* page;
  float* open;   // open page of the session (compact state), layer 0
  int32_t slot;  // position % 64
  bool decode;   // the row's past is complete before this step
};

// Which numbers a vector of 16 packed outputs holds.
enum class Section : uint8_t { kQuery, kKey, kValue, kFeedbackQuery, kFeedbackKey };
struct SectionVec {
  Section section;
  uint8_t lanes;   // valid ones
  int32_t offset;  // of its first number within the section
};

struct ProjectArgs {
  const void* abar;  // operand (rows, operand_stride)
  int32_t operand_stride;
  Matrix w;
  const SectionVec* sections;  // (4 panels)
  const float*
      rope;  // (rows, 2, rope_width): cosines, then sines with the sign of their term; nullptr: no RoPE
  int32_t rope_width;  // head width + 16: it wraps around
  int32_t head_width;
  float query_scale, feedback_scale;  // softmax scale times log2(e)
  void* q;                            // (rows, width), float32 or, for bf16_scores, bf16
  void* qb;                           // likewise
  int32_t width;
  bool bf16_scores;
  bool compact;  // state
  const RowState* rows;
  const int64_t* plane_offset;     // (4), of this layer, by Plane
  const int64_t* plane_row_bytes;  // (4)
};

// f = o W^T; decode rows: s = f + gamma ctx, to their page, and u = s g.
struct FeedbackOutArgs {
  const void* o;  // operand (rows, operand_stride)
  int32_t operand_stride;
  Matrix w;
  int32_t width;
  float* f;            // (rows, width): of the other rows; for the identity (w.data == nullptr) of all rows
  const float* gamma;  // (rows)
  const float* ctx;    // (rows, width)
  const float* g;      // (rows, width)
  void* u;             // operand (rows, operand_stride)
  bool compact;
  const RowState* rows;
  int64_t s_offset, s_row_bytes;  // of plane s in a page, this layer
  int64_t open_offset;            // floats
};

// x += u W^T + b
struct ResidualOutArgs {
  const void* u;
  int32_t operand_stride;
  Matrix w;
  int32_t width;
  float* x;  // (rows, width)
};

struct HeadArgs {
  const void* n;  // operand
  int32_t n_stride;
  int32_t first_row;  // the row of `logits` that row 0 of n belongs to
  Matrix w;
  int32_t vocab;
  float* logits;  // (rows, vocab)
};

// --- attention, a block of at most 64 tokens at a time ---

// How queries and keys are stored; queries carry the softmax scale.
enum class Keys { kF32, kBF16, kBF16Dot };  // query float32, float32, bf16; key float32, bf16, bf16

// scores[r, j] = q[r] . k[j]
struct ScoreArgs {
  Keys keys;
  const void* q;  // (rows, q_stride)
  int64_t q_stride;
  int32_t rows;
  const void* k;  // (tokens rounded up to 16, k_stride)
  int64_t k_stride;
  int32_t tokens;
  int32_t width;
  float* scores;  // (rows, 64)
};

// Row r of `rows` sees tokens [0, min(64, valid + r * valid_step)) of the block; none when that is <= 0, and
// the row then stays as it is.
struct SoftmaxArgs {
  float* p;  // (rows, 64): scores in, exp2(score - m) out, zero beyond the valid tokens
  int32_t rows;
  int32_t valid, valid_step;
  float* m;      // (rows) running maximum; -infinity at first
  float* l;      // (rows) running sum
  float* scale;  // (rows) out: what the accumulators of earlier blocks are to be multiplied with
};

enum class Values { kF32, kBF16, kFP16 };

// acc[r] = acc[r] * scale[r] + sum over valid j, ascending, of p[r, j] v[j]
struct AccumulateArgs {
  Values values;
  const float* p;  // (rows, 64)
  const float* scale;
  int32_t rows;
  int32_t valid, valid_step;
  const void* v;  // (64, v_stride)
  int64_t v_stride;
  int32_t columns;
  float* acc;  // (rows, acc_stride)
  int64_t acc_stride;
};

// out[r] = acc[r] / l[r]; zeros where l[r] == 0
struct NormalizeArgs {
  const float* acc;
  int64_t acc_stride;
  const float* l;
  int32_t rows, columns;
  void* out;  // operand, or float32 when `to_float`
  int64_t out_stride;
  bool to_float;
};

// Rows of one block of one session, in order: ctx = (acc scale + sum_{j < slot} p_j s_j) / l; s = f + gamma
// ctx, to the page; u = s g. Over columns [column_begin, column_end).
struct SolveArgs {
  int32_t row_begin, row_end;  // of the batch; consecutive slots of one page
  int32_t column_begin, column_end;
  const float* p;      // (rows of the batch, 64)
  const float* scale;  // (rows of the batch), likewise l
  const float* l;
  float* acc;  // (rows, width); overwritten
  int32_t width;
  FeedbackOutArgs out;
};

struct Kernels {
  const char* name;
  bool bf16;  // operands and weights of the functions below
  void (*layer_norm)(const LayerNormArgs&, int32_t row_begin, int32_t row_end);
  void (*norm_in)(const NormInArgs&, const Tile&);
  void (*project)(const ProjectArgs&, const Tile&);
  // The next two return how many values of s did not fit fp16.
  int64_t (*feedback_out)(const FeedbackOutArgs&, const Tile&);
  int64_t (*solve)(const SolveArgs&);
  void (*residual_out)(const ResidualOutArgs&, const Tile&);
  void (*head)(const HeadArgs&, const Tile&);
  void (*score)(const ScoreArgs&);
  void (*softmax)(const SoftmaxArgs&);
  void (*accumulate)(const AccumulateArgs&);
  void (*normalize)(const NormalizeArgs&);
};

const Kernels& PortableKernels();    // float32 operands
const Kernels& Avx2Kernels();        // float32
const Kernels& Avx512Kernels();      // float32
const Kernels& Avx512BF16Kernels();  // bf16

}  // namespace sessa::cpu
