// The layer phases: which kernels make up each, for decode rows and for prefill rows.
#include <algorithm>

#include "kernels/cuda/cuda_ops.h"

namespace sessa::cuda {

int32_t CudaOps::pass_rows() const { return decode() ? step_->plan.row_bucket : step_->plan.prefill_rows; }

const RowMeta* CudaOps::row_table() const {
  const TableLayout& layout = step_->plan.layout;
  return DeviceTable<RowMeta>(decode() ? layout.decode_rows : layout.prefill_rows);
}

const OutputMeta* CudaOps::output_table(int32_t first) const {
  const TableLayout& layout = step_->plan.layout;
  return DeviceTable<OutputMeta>(decode() ? layout.decode_outputs : layout.prefill_outputs) + first;
}

int32_t CudaOps::pass_first_output() const { return decode() ? 0 : step_->plan.decode_outputs; }

int32_t CudaOps::pass_output_count() const {
  return decode() ? step_->plan.decode_outputs : step_->plan.prefill_outputs;
}

// Outputs keep their place in the logits as long as all of a step fit.
int32_t CudaOps::LogitsRow(int32_t first) const {
  return static_cast<int32_t>(step_->batch->outputs.size()) <= info_.max_output_rows ? first : 0;
}

PrefillLinear CudaOps::PrefillProduct(const Matrix& matrix, const void* x) const {
  return {matrix.weight, x, matrix.outputs, weights_.pitch(), pass_rows(), multiprocessors_};
}

template <typename Epilogue>
void CudaOps::Linear(const Matrix& matrix, const void* x, const Epilogue& epilogue, const char* what) {
  const int32_t rows = pass_rows(), pitch = weights_.pitch();
  if (decode() || shape_.width % 8 != 0) {
    const DecodeGemm gemm{matrix.weight, x, matrix.outputs, rows, pitch};
    return Check(LaunchDecodeGemm(gemm, epilogue, decode() ? decode_context_ : prefill_context_), what);
  }
  if (FastLinearShape(prefill_limits_)) {
    return Check(LaunchPrefillLinear(PrefillProduct(matrix, x), epilogue, stream_), what);
  }
  LtGemm::Operands operands;
  operands.weight = matrix.weight;
  operands.x = x;
  operands.y = a_.product;
  operands.rows = (rows + 63) / 64 * 64;  // few sizes, few searches for algorithms; the buffers have the room
  operands.outputs = operands.pitch = matrix.padded_outputs;
  operands.inputs = pitch;
  Check(lt_->Run(operands, stream_));
  Check(LaunchEpilogue(Product{a_.product, matrix.outputs, rows, matrix.padded_outputs}, epilogue,
                       prefill_context_),
        what);
}

void CudaOps::Embed() {
  if (few_rows()) return RunFewRows();
  const EmbedParams params{row_table(),
                           a_.slots,
                           weights_.embed(),
                           weights_.theta(),
                           a_.x,
                           a_.rotation,
                           pass_rows(),
                           shape_.width,
                           weights_.pitch(),
                           shape_.vocab,
                           shape_.use_rope ? shape_.head_width() / 2 : 0};
  Check(LaunchEmbed(params, decode() ? decode_context_ : prefill_context_), "embedding");
}

void CudaOps::RunFewRows() {
  const StepPlan& plan = step_->plan;
  const char* tables = step_->tables.as();
  FewRowsParams params = {};
  FillFewRowsTables(tables, plan, &params.tables);
  params.slots = a_.slots;
  params.embed = weights_.embed();
  params.theta = weights_.theta();
  params.norm_weight = weights_.norm().weight;
  params.norm_bias = weights_.norm().bias;
  params.head = weights_.head().weight;
  params.logits = a_.logits;
  params.saturations = device_saturations();
  params.row_count = pass_rows();
  params.output_count = plan.decode_outputs;
  Check(few_rows_.Launch(params, stream_), "the pass of a few rows");
}

void CudaOps::NormIn(int32_t layer) {
  if (few_rows()) return;
  const LayerWeights& w = weights_.layer(layer);
  const NormParams norm{a_.x,        nullptr,      w.norm.weight,    w.norm.bias,    a_.n,
                        pass_rows(), shape_.width, weights_.pitch(), shape_.norm_eps};
  Check(LaunchNorm(norm, decode() ? decode_context_ : prefill_context_), "normalising");
  Linear(w.in, a_.n, InEpilogueParams{w.in.bias, a_.abar, a_.g, shape_.width, weights_.pitch()}, "W_in");
}

void CudaOps::ProjectAppend(int32_t layer) {
  if (few_rows()) return;
  const LayerWeights& w = weights_.layer(layer);
  ProjectEpilogueParams epilogue = {};
  epilogue.bias = w.project.bias;
  epilogue.rows = row_table();
  epilogue.pages = DeviceTable<int32_t>(step_->plan.layout.pages);
  epilogue.rotation = shape_.use_rope ? a_.rotation : nullptr;
  if (decode()) {
    epilogue.q = a_.q;
    epilogue.qb = a_.qb;
  } else {
    epilogue.q_bf16 = a_.q_bf16;
    epilogue.qb_bf16 = a_.qb_bf16;
  }
  epilogue.gamma = a_.gamma;
  epilogue.state = slab_.Layer(layer);
  epilogue.gamma_max = static_cast<float>(shape_.gamma_max);
  epilogue.head_width = shape_.head_width();
  Linear(w.project, a_.abar, epilogue, "projections");
}

AttentionParams CudaOps::DecodeAttention(int32_t layer) const {
  const TableLayout& layout = step_->plan.layout;
  AttentionParams params = {};
  params.rows = row_table();
  params.pages = DeviceTable<int32_t>(layout.pages);
  params.header = DeviceTable<DecodeHeader>(layout.header);
  params.feedback_runs = DeviceTable<int32_t>(layout.feedback_runs);
  params.forward_runs = DeviceTable<int32_t>(layout.forward_runs);
  params.q = a_.q;
  params.qb = a_.qb;
  if (shape_.has_out_proj()) {
    params.o_bf16 = a_.o_bf16;
  } else {
    params.o = a_.f;  // out_proj is the identity
  }
  params.ctx = a_.ctx;
  params.partials = a_.partials;
  params.arrivals = a_.arrivals;
  params.next_item = a_.next_item;
  params.state = slab_.Layer(layer);
  params.row_count = pass_rows();
  params.pitch = weights_.pitch();
  params.heads = shape_.heads;
  params.kv_heads = shape_.kv_heads;
  params.head_width = shape_.head_width();
  return params;
}

PrefillContext CudaOps::Prefill(int32_t layer) const {
  PrefillContext context;
  context.limits = &prefill_limits_;
  context.plan = &step_->prefill;
  context.table = prefill_table_.as();
  context.workspace = prefill_workspace_.as();
  context.state.pages = slab_.pages();
  context.state.page_count = slab_.page_count();
  context.state.open_pages = slab_.open_pages();
  context.state.page_table = DeviceTable<int32_t>(step_->plan.layout.pages);
  context.state.layout = &slab_.layout();
  context.state.layer = layer;
  context.side = prefill_side_;
  return context;
}

bool CudaOps::SolveFuses() const {
  return FastLinearShape(prefill_limits_) && shape_.has_out_proj() && step_->prefill.fuses;
}

PrefillFeedbackParams CudaOps::PrefillFeedback(int32_t layer) const {
  PrefillFeedbackParams params;
  params.qb = a_.qb_bf16;
  params.gamma = a_.gamma;
  params.saturations = device_saturations();
  if (SolveFuses()) {
    params.o = a_.o_bf16;
    params.out_weight = weights_.layer(layer).out.weight;
    params.g = a_.g;
    params.u = a_.u;
  } else {
    params.f = a_.f;
    params.s = a_.s;
  }
  return params;
}

void CudaOps::Attend(int32_t layer) {
  if (few_rows()) return;
  if (!decode()) {
    const PrefillContext context = Prefill(layer);
    const PrefillForwardParams forward{a_.q_bf16, a_.o_bf16};
    return Check(LaunchPrefillAttention(context, forward, PrefillFeedback(layer), stream_),
                 "prefill attention");
  }
  const AttentionParams params = DecodeAttention(layer);
  if (!attention_.fast) {
    return Check(LaunchGenericAttention(params, decode_context_), "attention");
  }
  Check(LaunchDecodeAttention(params, attention_, multiprocessors_, decode_context_), "attention");
}

void CudaOps::FeedbackOut(int32_t layer) {
  if (few_rows()) return;
  const LayerWeights& w = weights_.layer(layer);
  const int32_t rows = pass_rows(), pitch = weights_.pitch(), width = shape_.width;
  if (decode()) {
    const FeedbackEpilogueParams epilogue{row_table(),
                                          DeviceTable<int32_t>(step_->plan.layout.pages),
                                          a_.gamma,
                                          a_.ctx,
                                          a_.g,
                                          a_.u,
                                          slab_.Layer(layer),
                                          device_saturations(),
                                          pitch};
    if (shape_.has_out_proj()) {
      const DecodeGemm gemm{w.out.weight, a_.o_bf16, w.out.outputs, rows, pitch};
      return Check(LaunchDecodeGemm(gemm, epilogue, decode_context_), "out_proj");
    }
    return Check(LaunchEpilogue(Product{a_.f, width, rows, width}, epilogue, decode_context_), "feedback");
  }
  if (!shape_.has_out_proj()) {
    return Check(LaunchWiden(a_.o_bf16, a_.f, int64_t{rows} * width, prefill_context_), "out_proj");
  }
  if (width % 8 != 0) {
    Check(LaunchRepitch(a_.o_bf16, a_.o_padded, rows, width, pitch, prefill_context_), "out_proj");
    const DecodeGemm gemm{w.out.weight, a_.o_padded, width, rows, pitch};
    return Check(LaunchDecodeGemm(gemm, StoreEpilogueParams{a_.f, width}, prefill_context_), "out_proj");
  }
  if (SolveFuses()) return;
  if (FastLinearShape(prefill_limits_)) {
    const StoreEpilogueParams epilogue{a_.f, width};
    return Check(LaunchPrefillLinear(PrefillProduct(w.out, a_.o_bf16), epilogue, stream_), "out_proj");
  }
  LtGemm::Operands operands;
  operands.weight = w.out.weight;
  operands.x = a_.o_bf16;
  operands.y = a_.f;
  operands.rows = (rows + 63) / 64 * 64;
  operands.outputs = operands.inputs = operands.pitch = width;
  Check(lt_->Run(operands, stream_));
}

void CudaOps::PrefillSolve(int32_t layer) {
  if (decode()) return;
  Check(LaunchPrefillSolve(Prefill(layer), PrefillFeedback(layer), stream_), "prefill solve");
}

void CudaOps::ResidualOut(int32_t layer) {
  if (few_rows()) return;
  const LayerWeights& w = weights_.layer(layer);
  const int32_t rows = pass_rows(), pitch = weights_.pitch(), width = shape_.width;
  const ResidualEpilogueParams epilogue{w.residual.bias, a_.x, width};
  const DecodeGemm gemm{w.residual.weight, a_.u, width, rows, pitch};
  if (decode()) return Check(LaunchDecodeGemm(gemm, epilogue, decode_context_), "W_out");
  if (!SolveFuses()) {
    Check(LaunchGate(a_.s, a_.g, a_.u, rows, width, pitch, prefill_context_), "gate");
  }
  if (width % 8 != 0) return Check(LaunchDecodeGemm(gemm, epilogue, prefill_context_), "W_out");
  if (FastLinearShape(prefill_limits_)) {
    return Check(LaunchPrefillLinear(PrefillProduct(w.residual, a_.u), epilogue, stream_), "W_out");
  }
  LtGemm::Operands operands;
  operands.weight = w.residual.weight;
  operands.x = a_.u;
  operands.bias = w.residual.bias;
  operands.y = a_.x;
  operands.rows = (rows + 63) / 64 * 64;
  operands.outputs = operands.inputs = operands.pitch = width;
  operands.accumulate = true;
  Check(lt_->Run(operands, stream_));
}

void CudaOps::Head(int32_t first, int32_t count) {
  if (few_rows()) return;
  const LaunchContext& context = decode() ? decode_context_ : prefill_context_;
  if (decode()) count = step_->plan.row_bucket;
  const NormParams norm{a_.x,  output_table(first), weights_.norm().weight, weights_.norm().bias, a_.head_n,
                        count, shape_.width,        weights_.pitch(),       shape_.norm_eps};
  Check(LaunchNorm(norm, context), "normalising");
  const DecodeGemm gemm{weights_.head().weight, a_.head_n, shape_.vocab, count, weights_.pitch()};
  float* logits = a_.logits + int64_t{LogitsRow(first)} * shape_.vocab;
  Check(LaunchDecodeGemm(gemm, StoreEpilogueParams{logits, shape_.vocab}, context), "head");
}

void CudaOps::Sample(int32_t first, int32_t count) {
  const LaunchContext& context = decode() ? decode_context_ : prefill_context_;
  SampleKernelParams params = {};
  params.logits = a_.logits + int64_t{LogitsRow(first)} * shape_.vocab;
  params.outputs = output_table(first);
  params.slots = a_.slots;
  params.results = device_results() + first;
  params.row_count = decode() && !few_rows() ? step_->plan.row_bucket : count;
  params.vocab = shape_.vocab;
  params.pitch = shape_.vocab;
  if (step_->few_rows_only) {
    // No copies around the step: tables go with the launches, results straight to the host.
    params.outputs = nullptr;
    std::copy_n(reinterpret_cast<const OutputMeta*>(step_->tables.as() + step_->plan.layout.prefill_outputs),
                count, params.few_outputs);
    params.results = reinterpret_cast<SampleResult*>(step_->results.as() + kResultsOffset);
    params.saturations = device_saturations();
    params.saturations_copy = step_->results.as<unsigned long long>();
    step_->results_copied = true;
  }
  Check(LaunchSample(params, context), "sampling");
  if (!capturing_) TakeHostRows(first, count);
}

}  // namespace sessa::cuda
