#include "kernels/cpu/backend.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/tiling.h"
#include "kernels/half.h"
#include "kernels/host_rates.h"

namespace sessa::cpu {
namespace {

constexpr int32_t kMaxOutputRows = 256;

}  // namespace

Backend::Backend(const Choice& choice, const ModelShape& shape, const ModelTensors& tensors,
                 const OpsOptions& options)
    : shape_(shape),
      kernels_(*choice.kernels),
      bf16_scores_(choice.bf16_scores),
      max_rows_(options.max_rows),
      weights_(PackWeights(shape, tensors, choice.kernels->bf16)),
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
    scratch.normed = Buffer<std::byte>(int64_t{kTileRows} * act_.operand_stride * act_.operand_bytes);
  }
  info_.name = "cpu";
  info_.description = choice.description;
  info_.max_output_rows = kMaxOutputRows;
  info_.weight_bytes = weights_.bytes();
}

void Backend::BeginStep(const StepBatch& batch) {
  assert(batch.rows() <= max_rows_);
  batch_ = &batch;
  pass_pending_ = true;
  result_ = StepResult();
  started_ = std::chrono::steady_clock::now();
  PlaceRows();
  FillRope();
  attention_.Begin(batch);
}

void Backend::PlaceRows() {
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

void Backend::FillRope() {
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
void Backend::Embed() {
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

void Backend::ForgetNormed() {
  for (Scratch& scratch : scratch_) scratch.normed_tile = {-1, -1, 0, 0};
}

const void* Backend::Normed(const LayerNormArgs& norm, const Tile& tile, int thread) {
  Scratch& scratch = scratch_[thread];
  if (scratch.normed_tile.row_begin != tile.row_begin) {
    LayerNormArgs args = norm;
    args.width = shape_.width;
    args.eps = shape_.norm_eps;
    args.out = scratch.normed.data();
    args.out_stride = act_.operand_stride;
    kernels_.layer_norm(args, tile.row_begin, tile.row_end);
    scratch.normed_tile = tile;
  }
  return scratch.normed.data();
}

// logits = LayerNorm(x_L) head^T
void Backend::Head(int32_t first, int32_t count) {
  output_rows_.clear();
  for (int32_t i = 0; i < count; ++i) output_rows_.push_back(batch_->outputs[first + i].row);
  logit_rows_ = count;
  LayerNormArgs norm{};
  norm.x = act_.x.data();
  norm.row_ids = output_rows_.data();
  norm.weight = weights_.norm_weight.data();
  norm.bias = weights_.norm_bias.data();
  HeadArgs args{};
  args.n_stride = act_.operand_stride;
  args.w = weights_.head.view;
  args.vocab = shape_.vocab;
  args.logits = logits_.data();
  const Tiling tiling(count, args.w.panels, pool_.threads());
  ForgetNormed();
  pool_.Run(tiling.tiles(), [&](int item, int thread) {
    const Tile tile = tiling.tile(item);
    HeadArgs mine = args;
    mine.n = Normed(norm, tile, thread);
    mine.first_row = tile.row_begin;
    kernels_.head(mine, tile);
  });
}

void Backend::Sample(int32_t first, int32_t count) {
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

void Backend::EndStep() {
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
  result_.device_seconds = elapsed.count();
  const size_t outputs = batch_->outputs.size();
  if (outputs == 0 || outputs > kMaxOutputRows) logit_rows_ = 0;  // none, or only the last slice's
}

absl::StatusOr<std::vector<float>> Backend::ReadLogits(int32_t output) {
  if (output < 0 || output >= logit_rows_) {
    return absl::InvalidArgumentError(
        absl::StrCat("no logits of output ", output, "; there are ", logit_rows_));
  }
  const float* row = &logits_[int64_t{output} * shape_.vocab];
  return std::vector<float>(row, row + shape_.vocab);
}

// The large product: 512 rows with a square matrix of 1,024.
DeviceRates Backend::MeasureRates() {
  constexpr int32_t kRows = 512, kWidth = 1024, kRounds = 9;
  DeviceRates rates;
  rates.copy_bytes_per_second = MeasureHostReadRate(pool_.threads());
  Buffer<std::byte> operand(int64_t{kRows} * kWidth * act_.operand_bytes);
  Buffer<std::byte> weights(int64_t{kWidth} * kWidth * act_.operand_bytes);
  Buffer<float> bias(kWidth), x(int64_t{kRows} * kWidth);
  const Matrix matrix{weights.data(), bias.data(), kWidth, kWidth / kPanelOutputs,
                      int64_t{kWidth} * kPanelOutputs * act_.operand_bytes};
  const ResidualOutArgs args{operand.data(), kWidth, matrix, kWidth, x.data()};
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

}  // namespace sessa::cpu
