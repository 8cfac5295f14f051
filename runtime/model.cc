#include "runtime/model.h"

#include <time.h>

#include <algorithm>
#include <utility>

namespace sessa {
namespace {

// CPU time of the calling thread.
double ThreadCpuSeconds() {
  timespec time;
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

Model::Model(std::unique_ptr<Ops> ops) : ops_(std::move(ops)) {}

void Model::Launch(const StepBatch& batch) {
  const double before = ThreadCpuSeconds();
  ops_->BeginStep(batch);
  while (ops_->NextPass()) {
    ops_->Embed();  // x_0 = embed[token]
    RunLayers();
    RunHead();
  }
  ops_->EndStep();
  cpu_seconds_ += ThreadCpuSeconds() - before;
}

// x_{l+1} = x_l + (s * g) W_out^T + b_out, where s = Mixer(GELU(a)) and [a, g] = LayerNorm(x_l) W_in^T +
// b_in.
void Model::RunLayers() {
  for (int32_t layer = 0; layer < shape().layers; ++layer) {
    ops_->NormIn(layer);         // abar = GELU(a), g
    ops_->ProjectAppend(layer);  // q, k, v, qb, kb, gamma from abar; k, v, kb join the session's state
    ops_->Attend(layer);         // o: forward attention over j <= t; ctx: feedback attention over s_j, j < t
    ops_->FeedbackOut(layer);    // f = o W_o^T; s_t = f_t + gamma_t ctx_t where the past is complete
    ops_->PrefillSolve(layer);   // else the past is in this step too: (I - B) s = f
    ops_->ResidualOut(layer);    // x = x + (s * g) W_out^T + b_out
  }
}

// logits = LayerNorm(x_L) head^T, in slices that the backend has room for.
void Model::RunHead() {
  const int32_t end = ops_->pass_first_output() + ops_->pass_output_count();
  for (int32_t first = ops_->pass_first_output(); first < end;) {
    const int32_t count = std::min(end - first, ops_->info().max_output_rows);
    ops_->Head(first, count);
    ops_->Sample(first, count);
    first += count;
  }
}

absl::StatusOr<StepResult> Model::Collect() {
  const double before = ThreadCpuSeconds();
  absl::StatusOr<StepResult> result = ops_->Collect();
  if (!result.ok()) return result;
  const double workers = ops_->WorkerCpuSeconds();
  result->cpu_seconds = cpu_seconds_ + ThreadCpuSeconds() - before + workers - worker_cpu_seconds_;
  cpu_seconds_ = 0;
  worker_cpu_seconds_ = workers;
  return result;
}

}  // namespace sessa
