#include "kernels/cpu/attention.h"

#include <algorithm>
#include <atomic>

namespace sessa::cpu {
namespace {

constexpr int32_t kGroupRows = 32;  // of a prefill item

int32_t RoundUp(int32_t n, int32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

cpu::Keys KeysOf(StateDtype dtype, bool bf16_scores) {
  if (dtype == StateDtype::kF32) return cpu::Keys::kF32;
  return bf16_scores ? cpu::Keys::kBF16Dot : cpu::Keys::kBF16;
}

}  // namespace

Attention::Attention(const Kernels& kernels, bool bf16_scores, const HostState& state, WorkerPool& pool,
                     Activations& activations)
    : kernels_(kernels),
      state_(state),
      shape_(state.layout().shape),
      pool_(pool),
      activations_(activations),
      keys_(KeysOf(state.layout().dtype, bf16_scores)),
      scratch_(pool.threads()) {
  const int32_t group_heads = shape_.heads / shape_.kv_heads;
  const int32_t rows = std::max(kGroupRows, group_heads);
  for (Scratch& scratch : scratch_) {
    scratch.p = Buffer<float>(int64_t{rows} * kBlock);
    scratch.acc = Buffer<float>(int64_t{rows} * shape_.head_width());
    for (Buffer<float>* numbers : {&scratch.m, &scratch.l, &scratch.scale}) *numbers = Buffer<float>(rows);
  }
}

void Attention::Begin(const StepBatch& batch) {
  batch_ = &batch;
  decode_rows_.clear();
  groups_.clear();
  solve_items_.clear();
  solve_steps_ = 0;
  PlanDecode();
  PlanPrefill();
}

void Attention::PlanDecode() {
  score_items_.clear();
  value_items_.clear();
  int64_t scores = 0, blocks = 0;
  for (const Segment& segment : batch_->segments) {
    if (segment.rows != 1) continue;
    decode_rows_.push_back({&segment, segment.start, scores});
    const int64_t row_blocks = segment.start / kBlock + 1;
    blocks += row_blocks;
    scores += row_blocks * (shape_.heads + 1) * kBlock;
  }
  if (scores > scores_.size()) scores_ = Buffer<float>(2 * scores);  // contexts grow
  if (decode_rows_.empty()) return;

  // Enough items that the threads end together.
  const int32_t threads = pool_.threads(), rows = static_cast<int32_t>(decode_rows_.size());
  const int32_t item_blocks = static_cast<int32_t>(std::max<int64_t>(1, blocks / (8 * threads)));
  const int32_t columns = RoundUp(std::max(1, shape_.width * rows / (4 * threads)), kPanelOutputs);
  for (int32_t row = 0; row < rows; ++row) {
    const int32_t row_blocks = static_cast<int32_t>(decode_rows_[row].position / kBlock) + 1;
    for (int32_t b = 0; b < row_blocks; b += item_blocks) {
      score_items_.push_back({row, b, std::min(b + item_blocks, row_blocks)});
    }
    for (int32_t c = 0; c < shape_.width; c += columns) {
      value_items_.push_back({row, true, c, std::min(c + columns, shape_.width)});
    }
    for (int32_t h = 0; h < shape_.kv_heads; ++h) value_items_.push_back({row, false, h, h + 1});
  }
}

void Attention::PlanPrefill() {
  int32_t segments = 0;
  for (const Segment& segment : batch_->segments) {
    if (segment.rows == 1) continue;
    ++segments;
    const int64_t first_block = segment.start / kBlock;
    solve_steps_ = std::max(solve_steps_, (segment.start + segment.rows - 1) / kBlock - first_block + 1);
    for (int32_t row = 0; row < segment.rows;) {
      const int64_t position = segment.start + row;
      const int32_t slot = static_cast<int32_t>(position % kBlock);
      const int32_t rows = std::min({kGroupRows - slot % kGroupRows, segment.rows - row});
      groups_.push_back({&segment, segment.first_row + row, rows, slot, position / kBlock, first_block});
      row += rows;
    }
  }
  // The threads' shares (WorkerPool) get alternate blocks, and so equal work; within a share long contexts
  // come first.
  const int64_t threads = pool_.threads();
  std::stable_sort(groups_.begin(), groups_.end(), [threads](const RowGroup& a, const RowGroup& b) {
    const int64_t share_a = a.block % threads, share_b = b.block % threads;
    return share_a != share_b ? share_a < share_b : a.block > b.block;
  });
  const int32_t parts = std::max(1, pool_.threads() / std::max(1, segments));
  const int32_t columns = std::max(kLanes, RoundUp((shape_.width + parts - 1) / parts, kLanes));
  for (const Segment& segment : batch_->segments) {
    if (segment.rows == 1) continue;
    for (int32_t c = 0; c < shape_.width; c += columns) {
      solve_items_.push_back({&segment, c, std::min(c + columns, shape_.width)});
    }
  }
}

void Attention::Attend(int32_t layer) {
  pool_.Run(static_cast<int>(score_items_.size()),
            [&](int item, int) { ScoreDecode(layer, score_items_[item]); });
  pool_.Run(static_cast<int>(value_items_.size()), [&](int item, int thread) {
    if (value_items_[item].feedback) return DecodeFeedback(layer, value_items_[item]);
    DecodeForward(layer, value_items_[item], scratch_[thread]);
  });
  const int groups = static_cast<int>(groups_.size()), heads = shape_.heads;
  pool_.Run(groups * (heads + 1), [&](int item, int thread) {
    const RowGroup& group = groups_[item / (heads + 1)];
    const int head = item % (heads + 1);
    if (head == heads) return PrefillPast(layer, group, scratch_[thread]);
    PrefillForward(layer, group, head, scratch_[thread]);
  });
}

int64_t Attention::Solve(int32_t layer, const FeedbackOutArgs& out) {
  std::atomic<int64_t> saturations{0};
  for (int64_t step = 0; step < solve_steps_; ++step) {
    pool_.Run(static_cast<int>(solve_items_.size()), [&](int item, int) {
      const int64_t count = SolveBlock(step, solve_items_[item], out);
      if (count > 0) saturations.fetch_add(count, std::memory_order_relaxed);
    });
    if (step + 1 == solve_steps_) break;
    pool_.Run(static_cast<int>(groups_.size()),
              [&](int item, int thread) { AddSolvedBlocks(layer, groups_[item], step, scratch_[thread]); });
  }
  return saturations.load();
}

ScoreArgs Attention::ForwardKeys(const Segment& segment, int32_t layer, int64_t block, int64_t row,
                                 int32_t head) const {
  const int32_t width = shape_.head_width(), kv_head = head / (shape_.heads / shape_.kv_heads);
  const StateLayout& layout = state_.layout();
  ScoreArgs args{};
  args.keys = keys_;
  args.q = activations_.q.data() + (row * shape_.width + head * width) * activations_.query_bytes;
  args.q_stride = shape_.width;
  args.k = state_.Row(PageOf(segment, block), layer, Plane::kK) + kv_head * width * layout.number_bytes();
  args.k_stride = shape_.kv_width();
  args.width = width;
  return args;
}

ScoreArgs Attention::FeedbackKeys(const Segment& segment, int32_t layer, int64_t block, int64_t row) const {
  ScoreArgs args{};
  args.keys = keys_;
  args.q = activations_.qb.data() + row * shape_.width * activations_.query_bytes;
  args.q_stride = shape_.width;
  args.k = state_.Row(PageOf(segment, block), layer, Plane::kKb);
  args.k_stride = shape_.width;
  args.width = shape_.width;
  return args;
}

AccumulateArgs Attention::FeedbackValues(const Segment& segment, int32_t layer, int64_t block,
                                         int64_t reader) const {
  AccumulateArgs args{};
  args.v_stride = shape_.width;
  args.columns = shape_.width;
  args.acc_stride = shape_.width;
  if (compact() && block == reader) {
    args.values = Values::kF32;
    args.v = state_.OpenRow(segment.open_page, layer);
  } else {
    args.values = compact() ? Values::kFP16 : Values::kF32;
    args.v = state_.Row(PageOf(segment, block), layer, Plane::kS);
  }
  return args;
}

// o = acc / l of one head, as the operand of W_o, or as f itself where there is no W_o.
void Attention::StoreForward(int64_t row, int32_t rows, int32_t head, const float* acc, int64_t acc_stride,
                             const float* l) {
  const bool identity = !shape_.has_out_proj();
  NormalizeArgs args{};
  args.acc = acc;
  args.acc_stride = acc_stride;
  args.l = l;
  args.rows = rows;
  args.columns = shape_.head_width();
  args.to_float = identity;
  if (identity) {
    args.out = activations_.f.data() + row * shape_.width;
    args.out_stride = shape_.width;
  } else {
    args.out = activations_.o.data() +
               (row * activations_.operand_stride + head * shape_.head_width()) * activations_.operand_bytes;
    args.out_stride = activations_.operand_stride;
  }
  kernels_.normalize(args);
}

}  // namespace sessa::cpu
