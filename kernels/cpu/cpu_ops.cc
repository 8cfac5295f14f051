#include "kernels/cpu/cpu_ops.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/activations.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/rope_table.h"
#include "kernels/cpu/tiling.h"
#include "kernels/cpu/weights.h"
#include "kernels/cpu/worker_pool.h"
#include "kernels/half.h"
#include "kernels/host_rates.h"
#include "kernels/host_sampler.h"
#include "kernels/host_state.h"

namespace sessa {
namespace {

using cpu::Activations;
using cpu::Attention;
using cpu::Buffer;
using cpu::InstructionSet;
using cpu::Kernels;
using cpu::kPanelOutputs;
using cpu::RopeTable;
using cpu::Tile;
using cpu::Tiling;
using cpu::WorkerPool;

constexpr float kLog2E = 1.44269504088896340736f;
constexpr int32_t kMaxOutputRows = 256;
constexpr Plane kAppended[] = {Plane::kK, Plane::kV, Plane::kKb, Plane::kS};

// What was chosen for a model on this machine.
struct Choice {
  const Kernels* kernels;
  bool bf16_scores;  // q . k in bf16 too: the keys are
  std::string description;
};

Choice Choose(InstructionSet set, const ModelTensors& tensors, const OpsOptions& options) {
  const bool stored_bf16 = cpu::AllBF16(tensors);
  const Kernels& kernels = cpu::KernelsFor(set, stored_bf16);
  const bool compact = options.state_dtype == StateDtype::kCompact;
  const char* reason = kernels.bf16  ? "bf16 weights with float32 sums: the checkpoint is bf16"
                       : stored_bf16 ? "float32 weights: the CPU has no AVX512-BF16"
                                     : "float32 weights: the checkpoint is not bf16";
  return {&kernels, kernels.bf16 && compact,
          absl::StrCat("cpu: ", kernels.name, ", ", reason, ", ", compact ? "compact" : "float32", " state, ",
                       options.cpu_threads, options.cpu_threads == 1 ? " thread" : " threads")};
}

class CpuOps : public Ops {
 public:
  CpuOps(const Choice& choice, const ModelShape& shape, const ModelTensors& tensors,
         const OpsOptions& options);

  const OpsInfo& info() const override { return info_; }
  const StateLayout& layout() const override { return state_.layout(); }

  int64_t AvailableStateBytes() const override { return HostState::AvailableBytes(); }
  absl::Status AllocateState(int32_t pages, int32_t open_pages) override {
    return state_.Allocate(pages, open_pages);
  }
  void CopyPage(PageId from, PageId to) override { state_.CopyPage(from, to); }
  void CopyOpenPage(PageId from, PageId to) override { state_.CopyOpenPage(from, to); }
  absl::Status ReadState(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                         float* out) override {
    return state_.Read(page, layer, plane, first_row, rows, out);
  }

  void BeginStep(const StepBatch& batch) override;
  bool NextPass() override { return std::exchange(pass_pending_, false); }
  void Embed() override;
  void NormIn(int32_t layer) override;
  void ProjectAppend(int32_t layer) override;
  void Attend(int32_t layer) override { attention_.Attend(layer); }
  void FeedbackOut(int32_t layer) override;
  void PrefillSolve(int32_t layer) override;
  void ResidualOut(int32_t layer) override;
  void Head(int32_t first, int32_t count) override;
  void Sample(int32_t first, int32_t count) override;
  int32_t pass_first_output() const override { return 0; }
  int32_t pass_output_count() const override { return static_cast<int32_t>(batch_->outputs.size()); }
  void EndStep() override;
  absl::StatusOr<StepResult> Collect() override { return std::move(result_); }

  bool CanRunAhead(const SampleParams&) const override { return false; }
  absl::StatusOr<std::vector<float>> ReadLogits(int32_t output) override;

  DeviceRates MeasureRates() override;
  void FillState(uint32_t seed) override { state_.FillRandom(seed); }

 private:
  // Of one thread.
  struct alignas(64) Scratch {
    Buffer<std::byte> normed;        // operand: LayerNorm of a tile's rows
    Tile normed_tile{-1, -1, 0, 0};  // which rows those are
    SampleScratch sampler;
  };

  int32_t rows() const { return static_cast<int32_t>(act_.rows.size()); }
  void PlaceRows();
  void FillRope();
  void EmbedRow(int64_t row);
  // LayerNorm of the tile's rows, once a thread and phase.
  const void* Normed(const cpu::LayerNormArgs& norm, const Tile& tile, int thread);
  void ForgetNormed();
  float Gamma(int32_t layer, int64_t row) const;
  cpu::FeedbackOutArgs FeedbackArgs(int32_t layer);

  const ModelShape shape_;
  const Kernels& kernels_;
  const bool bf16_scores_;
  const int32_t max_rows_;
  cpu::Weights weights_;
  HostState state_;
  WorkerPool pool_;
  Activations act_;
  Attention attention_;
  std::vector<RopeTable> rope_table_;  // one, or none
  Buffer<float> rope_;                 // (max_rows, 2, row width)
  std::vector<Scratch> scratch_;       // by thread
  std::vector<int32_t> slots_;         // (max_segments) the token sampled last into each slot
  OpsInfo info_;

  // The step in progress.
  const StepBatch* batch_ = nullptr;
  bool pass_pending_ = false;
  StepResult result_;
  std::chrono::steady_clock::time_point started_;
  std::vector<int32_t> output_rows_;
  Buffer<float> logits_;  // (kMaxOutputRows, V) of the last slice
  int32_t logit_rows_ = 0;
};

CpuOps::CpuOps(const Choice& choice, const ModelShape& shape, const ModelTensors& tensors,
               const OpsOptions& options)
    : shape_(shape),
      kernels_(*choice.kernels),
      bf16_scores_(choice.bf16_scores),
      max_rows_(options.max_rows),
      weights_(cpu::PackWeights(shape, tensors, choice.kernels->bf16)),
      state_(StateLayout{shape, options.state_dtype}),
      pool_(options.cpu_threads),
      act_(shape, options.max_rows, choice.kernels->bf16, choice.bf16_scores),
      attention_(kernels_, bf16_scores_, state_, pool_, act_),
      scratch_(options.cpu_threads),
      slots_(options.max_segments),
      logits_(int64_t{kMaxOutputRows} * shape.vocab) {
  if (shape.use_rope) {
    rope_table_.emplace_back(shape);
    rope_ = Buffer<float>(int64_t{max_rows_} * 2 * rope_table_[0].row_width());
  }
  for (Scratch& scratch : scratch_) {
    scratch.normed = Buffer<std::byte>(int64_t{cpu::kTileRows} * act_.operand_stride * act_.operand_bytes);
  }
  info_.name = "cpu";
  info_.description = choice.description;
  info_.max_output_rows = kMaxOutputRows;
  info_.weight_bytes = weights_.bytes();
}

void CpuOps::BeginStep(const StepBatch& batch) {
  assert(batch.rows() <= max_rows_);
  batch_ = &batch;
  pass_pending_ = true;
  result_ = StepResult();
  started_ = std::chrono::steady_clock::now();
  PlaceRows();
  FillRope();
  attention_.Begin(batch);
}

void CpuOps::PlaceRows() {
  act_.rows.clear();
  act_.positions.clear();
  for (const Segment& segment : batch_->segments) {
    float* open = layout().has_open_pages() ? state_.OpenRow(segment.open_page, 0) : nullptr;
    for (int32_t i = 0; i < segment.rows; ++i) {
      const int64_t position = segment.start + i;
      const PageId page = batch_->pages[segment.page_begin + position / kPageTokens];
      act_.rows.push_back({state_.Row(page, 0, Plane::kK), open, static_cast<int32_t>(position % kPageTokens),
                           segment.rows == 1});
      act_.positions.push_back(position);
    }
  }
}

void CpuOps::FillRope() {
  if (rope_table_.empty() || act_.positions.empty()) return;
  RopeTable& table = rope_table_[0];
  table.Reserve(*std::max_element(act_.positions.begin(), act_.positions.end()));
  constexpr int32_t kRowsAnItem = 64;
  pool_.Run((rows() + kRowsAnItem - 1) / kRowsAnItem, [&](int item, int) {
    const int32_t end = std::min(rows(), (item + 1) * kRowsAnItem);
    for (int32_t row = item * kRowsAnItem; row < end; ++row) {
      table.Fill(act_.positions[row], &rope_[int64_t{row} * 2 * table.row_width()]);
    }
  });
}

// x_0 = embed[token]
void CpuOps::Embed() {
  for (const Segment& segment : batch_->segments) {
    for (int32_t i = 0; i < segment.rows; ++i) {
      const int32_t row = segment.first_row + i;
      const int64_t token = segment.token_slot >= 0 ? slots_[segment.token_slot] : batch_->tokens[row];
      float* x = &act_.x[int64_t{row} * shape_.width];
      const std::byte* in = weights_.embed.data() + token * shape_.width * ByteSize(weights_.embed_dtype);
      if (weights_.embed_dtype == DType::kF32) {
        std::memcpy(x, in, shape_.width * sizeof(float));
      } else {
        const auto* numbers = reinterpret_cast<const uint16_t*>(in);
        for (int32_t c = 0; c < shape_.width; ++c) x[c] = BF16ToFloat(numbers[c]);
      }
    }
  }
}

void CpuOps::ForgetNormed() {
  for (Scratch& scratch : scratch_) scratch.normed_tile = {-1, -1, 0, 0};
}

const void* CpuOps::Normed(const cpu::LayerNormArgs& norm, const Tile& tile, int thread) {
  Scratch& scratch = scratch_[thread];
  if (scratch.normed_tile.row_begin != tile.row_begin) {
    cpu::LayerNormArgs args = norm;
    args.width = shape_.width;
    args.eps = shape_.norm_eps;
    args.out = scratch.normed.data();
    args.out_stride = act_.operand_stride;
    kernels_.layer_norm(args, tile.row_begin, tile.row_end);
    scratch.normed_tile = tile;
  }
  return scratch.normed.data();
}

// [a, g] = LayerNorm(x) W_in^T + b_in;  abar = GELU(a)
void CpuOps::NormIn(int32_t layer) {
  const cpu::LayerWeights& w = weights_.layers[layer];
  cpu::LayerNormArgs norm{};
  norm.x = act_.x.data();
  norm.weight = w.norm_weight.data();
  norm.bias = w.norm_bias.data();
  cpu::NormInArgs args{};
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
    cpu::NormInArgs mine = args;
    mine.n = Normed(norm, tile, thread);
    mine.first_row = tile.row_begin;
    kernels_.norm_in(mine, tile);
  });
}

// gamma = gamma_max tanh(gamma_bias + abar . w_gamma)
float CpuOps::Gamma(int32_t layer, int64_t row) const {
  float sum = 0;
  for (int32_t panel = 0; panel < act_.gamma_panels; ++panel) {
    sum += act_.gamma_partial[row * act_.gamma_panels + panel];
  }
  return static_cast<float>(shape_.gamma_max) * std::tanh(weights_.layers[layer].gamma_bias + sum);
}

// q, k, v, qb, kb and gamma; RoPE on q and k.
void CpuOps::ProjectAppend(int32_t layer) {
  int64_t offsets[4], row_bytes[4];
  for (Plane plane : kAppended) {
    offsets[static_cast<int>(plane)] = layout().PlaneOffset(layer, plane);
    row_bytes[static_cast<int>(plane)] = layout().PlaneWidth(plane) * layout().number_bytes();
  }
  cpu::ProjectArgs args{};
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

cpu::FeedbackOutArgs CpuOps::FeedbackArgs(int32_t layer) {
  cpu::FeedbackOutArgs args{};
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
void CpuOps::FeedbackOut(int32_t layer) {
  const cpu::FeedbackOutArgs args = FeedbackArgs(layer);
  const Tiling tiling(rows(), (shape_.width + kPanelOutputs - 1) / kPanelOutputs, pool_.threads());
  std::atomic<int64_t> saturations{0};
  pool_.Run(tiling.tiles(), [&](int item, int) {
    const int64_t count = kernels_.feedback_out(args, tiling.tile(item));
    if (count > 0) saturations.fetch_add(count, std::memory_order_relaxed);
  });
  result_.state_saturations += saturations.load();
}

// (I - B) s = f
void CpuOps::PrefillSolve(int32_t layer) {
  result_.state_saturations += attention_.Solve(layer, FeedbackArgs(layer));
}

// x = x + (s * g) W_out^T + b_out
void CpuOps::ResidualOut(int32_t layer) {
  const cpu::ResidualOutArgs args{act_.u.data(), act_.operand_stride, weights_.layers[layer].w_out.view,
                                  shape_.width, act_.x.data()};
  const Tiling tiling(rows(), args.w.panels, pool_.threads());
  pool_.Run(tiling.tiles(), [&](int item, int) { kernels_.residual_out(args, tiling.tile(item)); });
}

// logits = LayerNorm(x_L) head^T
void CpuOps::Head(int32_t first, int32_t count) {
  output_rows_.clear();
  for (int32_t i = 0; i < count; ++i) output_rows_.push_back(batch_->outputs[first + i].row);
  logit_rows_ = count;
  cpu::LayerNormArgs norm{};
  norm.x = act_.x.data();
  norm.row_ids = output_rows_.data();
  norm.weight = weights_.norm_weight.data();
  norm.bias = weights_.norm_bias.data();
  cpu::HeadArgs args{};
  args.n_stride = act_.operand_stride;
  args.w = weights_.head.view;
  args.vocab = shape_.vocab;
  args.logits = logits_.data();
  const Tiling tiling(count, args.w.panels, pool_.threads());
  ForgetNormed();
  pool_.Run(tiling.tiles(), [&](int item, int thread) {
    const Tile tile = tiling.tile(item);
    cpu::HeadArgs mine = args;
    mine.n = Normed(norm, tile, thread);
    mine.first_row = tile.row_begin;
    kernels_.head(mine, tile);
  });
}

void CpuOps::Sample(int32_t first, int32_t count) {
  const size_t done = result_.outputs.size();
  result_.outputs.resize(done + count);
  pool_.Run(count, [&](int item, int thread) {
    const absl::Span<const float> logits(&logits_[int64_t{item} * shape_.vocab], shape_.vocab);
    result_.outputs[done + item] = SampleRow(logits, batch_->outputs[first + item], scratch_[thread].sampler);
  });
  for (int32_t i = 0; i < count; ++i) {
    const int32_t slot = batch_->outputs[first + i].slot;
    if (slot >= 0) slots_[slot] = result_.outputs[done + i].token;
  }
}

void CpuOps::EndStep() {
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
  result_.device_seconds = elapsed.count();
  const size_t outputs = batch_->outputs.size();
  if (outputs == 0 || outputs > kMaxOutputRows) logit_rows_ = 0;  // none, or only the last slice's
}

absl::StatusOr<std::vector<float>> CpuOps::ReadLogits(int32_t output) {
  if (output < 0 || output >= logit_rows_) {
    return absl::InvalidArgumentError(
        absl::StrCat("no logits of output ", output, "; there are ", logit_rows_));
  }
  const float* row = &logits_[int64_t{output} * shape_.vocab];
  return std::vector<float>(row, row + shape_.vocab);
}

// The large product: 512 rows with a square matrix of 1,024.
DeviceRates CpuOps::MeasureRates() {
  constexpr int32_t kRows = 512, kWidth = 1024, kRounds = 9;
  DeviceRates rates;
  rates.copy_bytes_per_second = MeasureHostReadRate(pool_.threads());
  Buffer<std::byte> operand(int64_t{kRows} * kWidth * act_.operand_bytes);
  Buffer<std::byte> weights(int64_t{kWidth} * kWidth * act_.operand_bytes);
  Buffer<float> bias(kWidth), x(int64_t{kRows} * kWidth);
  const cpu::Matrix matrix{weights.data(), bias.data(), kWidth, kWidth / kPanelOutputs,
                           int64_t{kWidth} * kPanelOutputs * act_.operand_bytes};
  const cpu::ResidualOutArgs args{operand.data(), kWidth, matrix, kWidth, x.data()};
  const Tiling tiling(kRows, matrix.panels, pool_.threads());
  double best = 1e30;
  for (int32_t round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    pool_.Run(tiling.tiles(), [&](int item, int) { kernels_.residual_out(args, tiling.tile(item)); });
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  rates.gemm_flops_per_second = 2.0 * kRows * kWidth * kWidth / best;
  return rates;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CreateCpuOpsWith(InstructionSet set, const ModelShape& shape,
                                                      const ModelTensors& tensors,
                                                      const OpsOptions& options) {
  if (options.cpu_threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("cpu_threads is ", options.cpu_threads, ", must be at least 1"));
  }
  try {
    return std::make_unique<CpuOps>(Choose(set, tensors, options), shape, tensors, options);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("cpu backend: not enough memory for weights and activations");
  }
}

absl::StatusOr<std::unique_ptr<Ops>> CreateCpuOps(const ModelShape& shape, const ModelTensors& tensors,
                                                  const OpsOptions& options) {
  return CreateCpuOpsWith(cpu::DetectInstructionSet(), shape, tensors, options);
}

}  // namespace sessa
