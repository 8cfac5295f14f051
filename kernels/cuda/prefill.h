// Prefill of one layer: forward attention of the new rows, and the feedback solve (I - B) s = f over them.
//
// Rows are those of the step's prefill segments; the state of positions before a segment is in its pages, and
// the segment's own k, v and kb have been appended to the pages before these launchers run. Equations:
// docs/sessa-model.md; scheme and kernels: docs/kernels.md.
//
// Use: once a step PlanPrefill (host only), copy plan.table_bytes of the table to the device; then for each
// layer LaunchPrefillAttention, f = o W_o^T (or, where plan.fuses, nothing), LaunchPrefillSolve.
//
// Everything here is asynchronous and allocates nothing; functions return the first CUDA error of their
// launches. They may be called from any one thread at a time.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "kernels/state_layout.h"

namespace sessa::cuda {

// Consecutive new tokens of one session.
struct PrefillSegment {
  int32_t first_row = 0;   // its rows are [first_row, first_row + rows) of the activations
  int32_t rows = 0;        // > 0
  int32_t start = 0;       // absolute position of the first row
  int32_t page_begin = 0;  // page of positions [64 i, 64 i + 64) is page_table[page_begin + i]
  int32_t open_page = -1;  // compact state: float32 s of the block that holds `start`; in the end, of the
                           // block that holds start + rows - 1
};

// How work is cut, for benches; 0: as the plan finds best.
struct PrefillTuning {
  int32_t leaf = 1024;       // rows of a leaf inverse: 128, 256, 512, 1024 or 2048
  int32_t past_columns = 0;  // columns of the tiles of the past's contribution, of the solve: 64, 128, 256
  int32_t solve_columns = 0;
  int32_t inverse_columns = 0;  // 64, 128
};

// What buffers are sized for; constant after start.
struct PrefillLimits {
  ModelShape shape;
  StateDtype state = StateDtype::kCompact;
  int32_t max_rows = 2048;                   // rows of all segments of a step, together
  int32_t max_segments = 256;                // of a step
  int32_t max_context = 1 << 20;             // start + rows of any segment
  int64_t panel_bytes = int64_t{128} << 20;  // of the panel of attention weights; longer pasts take several
  bool tensor_cores = true;                  // false: the plain kernels (checks; every card but Hopper)
  int32_t multiprocessors = 132;             // of the card: how finely work is cut
  PrefillTuning tuning;
};

// Which kernels solve such a model's prompts, for a log: "tensor-core", "tensor-core (plain forward
// attention)" or "plain (slow)".
const char* PrefillKind(const PrefillLimits& limits);

// Device memory that the launchers of a step share, and pinned host memory (and as much device memory) for a
// plan's table.
int64_t PrefillWorkspaceBytes(const PrefillLimits& limits);
int64_t PrefillTableBytes(const PrefillLimits& limits);

// Tiles of one batched launch: entries [first, first + count) of the table's list of their kind.
struct PrefillRange {
  int32_t first = 0;
  int32_t count = 0;
};

// The schedule of a step's prefill rows, the same for all layers. Host data; the table is what kernels read.
struct PrefillPlan {
  std::vector<PrefillSegment> segments;        // all, as given
  std::vector<PrefillSegment> plain_segments;  // those that the plain feedback kernels solve
  int32_t fast_segments = 0;                   // the others, in the table: tensor-core kernels
  int32_t padded_rows = 0;    // workspace rows of the fast segments, each from its 64-token block boundary on
  int32_t panel_columns = 0;  // columns of the panel of attention weights
  int32_t planes = 0;         // partial sums of the past's contribution
  int32_t tile_columns = 0;   // columns of the tiles of `past`
  int32_t solve_columns = 0;  // columns of the tiles of `solve`
  int32_t inverse_columns = 0;  // columns of the tiles of `inverse`
  int32_t leaf = 0;             // rows of a leaf inverse
  struct Offsets {              // of the lists in the table, in bytes
    int64_t segments = 0, score = 0, product = 0, forward = 0, leaves = 0, rows = 0;
  } offsets;
  int64_t table_bytes = 0;  // to copy to the device
  struct Panel {            // panels are counted from the end: the last one launched holds the new rows
    int32_t index = 0;
    PrefillRange score, past;
  };
  std::vector<Panel> panels;
  PrefillRange forward, leaves, rows;
  PrefillRange right;                 // the right-hand side with the last panel's past; none where planes > 1
  std::vector<PrefillRange> inverse;  // two an inverse level: T = sigma (P21 + P21 W11), then W21 = T + W22 T
  struct Solve {
    PrefillRange range;
    bool leaf = false;  // s = r + W r; else r += sigma P~ s
  };
  std::vector<Solve> solve;  // in order
  bool substitutes = false;  // some fast segments are short and solved row by row
  bool fuses = false;        // Solve can make f from o, and u from s
  // Multiprocessors of the forward kernel and of the inverses beside it, on two streams; 0: one after the
  // other.
  int32_t forward_blocks = 0, beside_blocks = 0;
};

// Plans a step. `segments` lie within the limits; `table` has PrefillTableBytes.
PrefillPlan PlanPrefill(const PrefillLimits& limits, const PrefillSegment* segments, int32_t count,
                        void* table);

// The state slabs as one layer sees them.
struct PrefillState {
  void* pages = nullptr;   // page p begins at pages + p * layout.page_bytes()
  int32_t page_count = 0;  // pages of the slab
  void* open_pages =
      nullptr;  // open page p begins at open_pages + p * layout.open_page_bytes(); compact only
  const int32_t* page_table = nullptr;  // device, (pages of all segments)
  const StateLayout* layout = nullptr;  // host
  int32_t layer = 0;
};

struct PrefillForwardParams {
  const void* q = nullptr;  // (rows, D) bf16, after RoPE; head h in columns [h d, h d + d)
  void* o = nullptr;        // (rows, D) bf16
};

// All but qb and gamma are LaunchPrefillSolve's alone.
struct PrefillFeedbackParams {
  const void* qb = nullptr;                   // (rows, D) bf16
  const float* gamma = nullptr;               // (rows)
  const float* f = nullptr;                   // (rows, D); null, where plan.fuses: f = o W_o^T
  const void* o = nullptr;                    // (rows, D) bf16
  const void* out_weight = nullptr;           // (D, D) bf16
  float* s = nullptr;                         // (rows, D); null, where plan.fuses: u is wanted instead
  const float* g = nullptr;                   // (rows, D)
  void* u = nullptr;                          // (rows, D) bf16: u = s * g
  unsigned long long* saturations = nullptr;  // device counter: values of s beyond fp16 (stored as +-65504)
};

// A second stream, and events of nobody else. Owned by the caller.
struct PrefillSide {
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
};

// What every launcher needs besides its own operands.
struct PrefillContext {
  const PrefillLimits* limits = nullptr;
  const PrefillPlan* plan = nullptr;
  const void* table = nullptr;  // device copy of the plan's table
  void* workspace = nullptr;    // device, PrefillWorkspaceBytes; Prepare's results live there until Solve
  PrefillState state;
  PrefillSide side;  // may be empty
};

// o_t,h = sum_{j<=t} softmax_j(q_t,h . k_j,h' d^-1/2) v_j,h'.
cudaError_t LaunchPrefillForward(const PrefillContext& context, const PrefillForwardParams& params,
                                 cudaStream_t stream);

// All of the solve that needs no f: weights P~ and their row sums, leaf inverses, and the past's
// contribution where that is split. Uses the workspace; does not touch params.f and params.s.
cudaError_t LaunchPrefillPrepare(const PrefillContext& context, const PrefillFeedbackParams& params,
                                 cudaStream_t stream);

// Both of these; with a side stream, the inverses beside the forward kernel where that pays.
cudaError_t LaunchPrefillAttention(const PrefillContext& context, const PrefillForwardParams& forward,
                                   const PrefillFeedbackParams& feedback, cudaStream_t stream);

// s_t = f_t + gamma_t sum_{j<t} softmax_{j<t}(qb_t . kb_j D^-1/2) s_j (s_0 = f_0) for the segments' rows.
// Writes s in float32 to params.s (or u), to the pages in their type and, compact, to the open page the rows
// of the segment's last block, finished or not. A position's s is read as fp16 or better.
cudaError_t LaunchPrefillSolve(const PrefillContext& context, const PrefillFeedbackParams& params,
                               cudaStream_t stream);

}  // namespace sessa::cuda
