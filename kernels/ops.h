// The interface between the model and a backend: the phases of a Sessa layer over a batch of rows.
//
// A step is: BeginStep(batch); while (NextPass()) { Embed; for each layer NormIn .. ResidualOut; for each
// slice of outputs Head, Sample }; EndStep; later Collect. The layer loop itself is runtime/model.cc and is
// the same for every backend. Equations are those of docs/sessa-model.md.
//
// Rows: a batch concatenates segments; a segment is some consecutive tokens of one session (one for a
// decoding session, up to a chunk for a prompt). Activations (x, n, a, g, q, ...) are (rows, width) and
// belong to the backend. State goes to pages named by the segment's page table.
//
// Batch invariance: a row's result is bitwise independent of the other rows of the batch. On the CPU backends
// it is so for every row, and of how a prompt is cut too (attention runs over blocks of 64 tokens aligned to
// absolute position, ascending); on CUDA for decode rows, of any bucket.
//
// Thread: everything here is called by one thread (the engine's). Phases cannot fail: what goes wrong on a
// device is reported by Collect, after which the backend is unusable.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/model_shape.h"
#include "kernels/sampling.h"
#include "kernels/state_layout.h"

namespace sessa {

using PageId = int32_t;  // index into the state slab, or into the slab of open pages; -1: none

// Consecutive tokens of one session.
struct Segment {
  int32_t first_row = 0;  // rows [first_row, first_row + rows) of the batch
  int32_t rows = 0;
  int64_t start = 0;  // absolute position of the first row; state for [0, start) is valid in the pages
  int32_t page_begin =
      0;  // the session's page table is StepBatch::pages[page_begin, page_begin + page_count),
  int32_t page_count = 0;  //   page i for positions [64 i, 64 i + 64); covers start + rows tokens
  PageId open_page =
      -1;  // compact state: float32 s of the block that holds `start` (and of each block that the
           //   segment enters in turn; at the end, of the block that holds start + rows - 1)
  int32_t token_slot = -1;  // >= 0: rows == 1 and its token is the one last sampled into this slot
};

// One step's work. Owned by the engine, unchanged from BeginStep to Collect.
struct StepBatch {
  std::vector<Segment> segments;   // decode segments (rows == 1) first, then longer ones
  std::vector<int32_t> tokens;     // (rows) token ids; ignored where the segment has a token_slot
  std::vector<PageId> pages;       // concatenated page tables
  std::vector<OutputRow> outputs;  // rows whose logits are wanted, ascending: at most one a row

  int32_t rows() const { return static_cast<int32_t>(tokens.size()); }
};

struct StepResult {
  std::vector<OutputResult> outputs;  // as StepBatch::outputs
  double device_seconds = 0;          // time that the device (or, on the CPU, the ops) spent on this step
  double host_seconds = 0;            // what Collect took after that, to sample on the host
  uint64_t state_saturations = 0;     // values of s that did not fit fp16 in this step
  double cpu_seconds = 0;  // CPU time in the ops, all threads, since the step before; Model fills it
};

// Limits that a backend is created with; constant afterwards.
struct OpsOptions {
  int32_t max_rows = 2048;     // rows of a batch
  int32_t max_segments = 256;  // segments of a batch, and token slots
  StateDtype state_dtype = StateDtype::kF32;
  int32_t cpu_threads = 1;  // CPU backends: threads in all, the caller's included
  int32_t device = 0;       // CUDA: ordinal
};

struct OpsInfo {
  std::string name;  // "reference", "cpu", "cuda"
  std::string
      description;  // what was chosen and why, one line for the log ("cpu: AVX512-BF16, 2 threads, ...")
  int32_t max_output_rows = 0;  // of one Head/Sample slice
  int32_t steps_in_flight =
      1;  // 1: BeginStep only after Collect; 2: one step may be planned ahead of the device
  int64_t weight_bytes = 0;  // memory held for weights
};

// What the device can do at best, measured with the backend's own means: what step_bench divides by.
struct DeviceRates {
  double copy_bytes_per_second = 0;  // of memory: bytes read and written by a copy (device), or read (host)
  double gemm_flops_per_second =
      0;  // of a large matrix product in the weights' arithmetic; 2 m n k an (m, n, k)
};

class Ops {
 public:
  virtual ~Ops() = default;
  virtual const OpsInfo& info() const = 0;
  virtual const StateLayout& layout() const = 0;

  // --- state memory ---------------------------------------------------------------------------------------
  // How many bytes of state memory could be had now (device: free minus a reserve; host: a share of RAM).
  virtual int64_t AvailableStateBytes() const = 0;
  // Allocates the slabs: `pages` state pages and `open_pages` open pages. Once. Host slabs are touched
  // lazily. RESOURCE_EXHAUSTED says how much was asked, free and needed.
  virtual absl::Status AllocateState(int32_t pages, int32_t open_pages) = 0;
  // Copies a page, whole (copy on write). Ordered with the steps around it.
  virtual void CopyPage(PageId from, PageId to) = 0;
  virtual void CopyOpenPage(PageId from, PageId to) = 0;
  // Decodes `rows` rows of a plane to float32, out (rows, PlaneWidth). For checks and tools; waits for the
  // device.
  virtual absl::Status ReadState(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                                 float* out) = 0;

  // --- a step ---------------------------------------------------------------------------------------------
  virtual void BeginStep(const StepBatch& batch) = 0;
  // Starts the next pass over the layers; false when there is none left. A backend without graphs makes one
  // pass of all rows. One with graphs may run decode and prefill rows as two passes, and replays a captured
  // pass by itself.
  virtual bool NextPass() = 0;
  virtual void Embed() = 0;                       // x = embed[token]
  virtual void NormIn(int32_t layer) = 0;         // n = LayerNorm(x); [a,g] = n W_in^T + b_in; abar = GELU(a)
  virtual void ProjectAppend(int32_t layer) = 0;  // q,k,v,qb,kb,gamma from abar; RoPE; k, v, kb to pages
  virtual void Attend(int32_t layer) = 0;  // o = forward attention (j <= t); ctx = feedback attention of rows
                                           //   whose past is complete (decode); others wait for PrefillSolve
  virtual void FeedbackOut(int32_t layer) = 0;   // f = o W_o^T; decode rows: s = f + gamma ctx, to pages
  virtual void PrefillSolve(int32_t layer) = 0;  // rows of longer segments: (I - B) s = f, s to pages
  virtual void ResidualOut(int32_t layer) = 0;   // x = x + (s * g) W_out^T + b_out
  // Logits of outputs [first, first + count) of the pass (count <= max_output_rows): LayerNorm(x) head^T.
  virtual void Head(int32_t first, int32_t count) = 0;
  // Draws (or scores) those outputs.
  virtual void Sample(int32_t first, int32_t count) = 0;
  // The outputs of the current pass, as a range of StepBatch::outputs: what model.cc cuts into slices.
  virtual int32_t pass_first_output() const = 0;
  virtual int32_t pass_output_count() const = 0;
  virtual void EndStep() = 0;
  // Waits for the oldest step that was not collected. An error is final (a device fault): stop serving.
  virtual absl::StatusOr<StepResult> Collect() = 0;

  // True when a row with these parameters can feed its token to the next step without the host having seen
  // it.
  virtual bool CanRunAhead(const SampleParams& params) const = 0;

  // The logits (vocab) of output i of the step collected last, for checks and tools. INVALID_ARGUMENT for an
  // i out of range; only steps with at most max_output_rows outputs keep them.
  virtual absl::StatusOr<std::vector<float>> ReadLogits(int32_t output) = 0;

  // CPU time, so far, of the threads that the backend runs beside its caller's.
  virtual double WorkerCpuSeconds() const { return 0; }

  // --- for benches ----------------------------------------------------------------------------------------
  // Takes up to a second; only between steps. Zeros: not measured.
  virtual DeviceRates MeasureRates() { return {}; }
  // Fills every allocated page with random state in [-1, 1), so that long contexts need not be prefilled;
  // only between steps. Without an override the pages stay as they are (zeros).
  virtual void FillState(uint32_t /*seed*/) {}
};

// Makes a backend: packs the weights (tensors may be unmapped afterwards). Each lives in its own folder.
//   kernels/reference/reference_ops.h  CreateReferenceOps
//   kernels/cpu/cpu_ops.h              CreateCpuOps
//   kernels/cuda/cuda_plugin.h         LoadCudaOps (opens libsessa_cuda.so)
using CreateOpsFn = absl::StatusOr<std::unique_ptr<Ops>> (*)(const ModelShape&, const ModelTensors&,
                                                             const OpsOptions&);

}  // namespace sessa
