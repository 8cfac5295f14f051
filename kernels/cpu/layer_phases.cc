// The phases of a layer but for the attentions: what each kernel reads and writes, and how the work is cut.
#include <atomic>
#include <cmath>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/tiling.h"

namespace sessa::cpu {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr Plane kPlanes[] = {Plane::kK, Plane::kV, Plane::kKb, Plane::kS};

}  // namespace

// [a, g] = LayerNorm(x) W_in^T + b_in;  abar = GELU(a)
void Backend::NormIn(int32_t layer) {
  const LayerWeights& w = weights_.layers[layer];
  LayerNormArgs norm{};
  norm.x = act_.x.data();
  norm.weight = w.norm_weight.data();
  norm.bias = w.norm_bias.data();
  NormInArgs args{};
  args.n_stride = act_.operand_stride;
  args.w = w.w_in.view;
  args.width = shape_.width;
  args.gamma_weight = w.gamma_weight.data();
  args.abar = act_.abar.data();
  args.operand_stride = act_.operand_stride;
  args.g = act_.g.data();
  args.gamma_partial = act_.gamma_partial.data();
  args.gamma_panels = act_.gamma_panels;
  const Tiling tiling(rows(), args.w.panels, pool_.threads());
  ForgetNormed();
  pool_.Run(tiling.tiles(), [&](int item, int thread) {
    const Tile tile = tiling.tile(item);
    NormInArgs mine = args;
    mine.n = Normed(norm, tile, thread);
    mine.first_row = tile.row_begin;
    kernels_.norm_in(mine, tile);
  });
}

// gamma = gamma_max tanh(gamma_bias + abar . w_gamma)
float Backend::Gamma(int32_t layer, int64_t row) const {
  float sum = 0;
  for (int32_t panel = 0; panel < act_.gamma_panels; ++panel) {
    sum += act_.gamma_partial[row * act_.gamma_panels + panel];
  }
  return static_cast<float>(shape_.gamma_max) * std::tanh(weights_.layers[layer].gamma_bias + sum);
}

// q, k, v, qb, kb and gamma; RoPE on q and k.
void Backend::ProjectAppend(int32_t layer) {
  int64_t offsets[4], row_bytes[4];
  for (Plane plane : kPlanes) {
    offsets[static_cast<int>(plane)] = layout().PlaneOffset(layer, plane);
    row_bytes[static_cast<int>(plane)] = layout().PlaneWidth(plane) * layout().number_bytes();
  }
  ProjectArgs args{};
  args.abar = act_.abar.data();
  args.operand_stride = act_.operand_stride;
  args.w = weights_.layers[layer].project.view;
  args.sections = weights_.sections.data();
  args.head_width = shape_.head_width();
  if (!rope_table_.empty()) {
    args.rope = rope_.data();
    args.rope_width = rope_table_[0].row_width();
  }
  args.query_scale = kLog2E / std::sqrt(static_cast<float>(shape_.head_width()));
  args.feedback_scale = kLog2E / std::sqrt(static_cast<float>(shape_.width));
  args.q = act_.q.data();
  args.qb = act_.qb.data();
  args.width = shape_.width;
  args.bf16_scores = bf16_scores_;
  args.compact = layout().dtype == StateDtype::kCompact;
  args.rows = act_.rows.data();
  args.plane_offset = offsets;
  args.plane_row_bytes = row_bytes;
  const Tiling tiling(rows(), args.w.panels, pool_.threads());
  pool_.Run(tiling.tiles(), [&](int item, int) {
    const Tile tile = tiling.tile(item);
    kernels_.project(args, tile);
    if (tile.panel_begin > 0) return;
    for (int32_t row = tile.row_begin; row < tile.row_end; ++row) act_.gamma[row] = Gamma(layer, row);
  });
}

FeedbackOutArgs Backend::FeedbackArgs(int32_t layer) {
  FeedbackOutArgs args{};
  args.o = act_.o.data();
  args.operand_stride = act_.operand_stride;
  args.w = weights_.layers[layer].out.view;
  args.width = shape_.width;
  args.f = act_.f.data();
  args.gamma = act_.gamma.data();
  args.ctx = act_.ctx.data();
  args.g = act_.g.data();
  args.u = act_.u.data();
  args.compact = layout().dtype == StateDtype::kCompact;
  args.rows = act_.rows.data();
  args.s_offset = layout().PlaneOffset(layer, Plane::kS);
  args.s_row_bytes = shape_.width * layout().number_bytes();
  args.open_offset = layout().OpenOffset(layer) / static_cast<int64_t>(sizeof(float));
  return args;
}

// f = o W_o^T;  decode rows: s = f + gamma ctx
void Backend::FeedbackOut(int32_t layer) {
  const FeedbackOutArgs args = FeedbackArgs(layer);
  const Tiling tiling(rows(), (shape_.width + kPanelOutputs - 1) / kPanelOutputs, pool_.threads());
  std::atomic<int64_t> saturations{0};
  pool_.Run(tiling.tiles(), [&](int item, int) {
    const int64_t count = kernels_.feedback_out(args, tiling.tile(item));
    if (count > 0) saturations.fetch_add(count, std::memory_order_relaxed);
  });
  result_.state_saturations += saturations.load();
}

// (I - B) s = f
void Backend::PrefillSolve(int32_t layer) {
  result_.state_saturations += attention_.Solve(layer, FeedbackArgs(layer));
}

// x = x + (s * g) W_out^T + b_out
void Backend::ResidualOut(int32_t layer) {
  const ResidualOutArgs args{act_.u.data(), act_.operand_stride, weights_.layers[layer].w_out.view,
                             shape_.width, act_.x.data()};
  const Tiling tiling(rows(), args.w.panels, pool_.threads());
  pool_.Run(tiling.tiles(), [&](int item, int) { kernels_.residual_out(args, tiling.tile(item)); });
}

}  // namespace sessa::cpu
