#include "kernels/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <limits>

namespace sessa::cpu {
namespace {

constexpr int32_t kGroupRows = 32;  // of a prefill item

// Solved blocks are added at once to rows in the same run of blocks, and a whole run at a time to all later
// rows: their sums are too large for a core's own cache, and travelled between the cores at every block
// otherwise.
constexpr int64_t kSolveRun = 4;

constexpr float kNoMaximum = -std::numeric_limits<float>::infinity();

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
  // Long contexts first: they are the longest items.
  std::stable_sort(groups_.begin(), groups_.end(),
                   [](const RowGroup& a, const RowGroup& b) { return a.block > b.block; });
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

// --- decode
// ---------------------------------------------------------------------------------------------------------

void Attention::ScoreDecode(int32_t layer, const ScoreItem& item) {
  const DecodeRow& row = decode_rows_[item.row];
  const int32_t group_heads = shape_.heads / shape_.kv_heads;
  for (int64_t block = item.block_begin; block < item.block_end; ++block) {
    float* scores = scores_.data() + row.scores + block * (shape_.heads + 1) * kBlock;
    for (int32_t h = 0; h < shape_.heads; h += group_heads) {
      ScoreArgs args = ForwardKeys(*row.segment, layer, block, row.segment->first_row, h);
      args.q_stride = shape_.head_width();  // the heads of a group are the rows
      args.rows = group_heads;
      args.tokens = static_cast<int32_t>(std::min<int64_t>(kBlock, row.position + 1 - block * kBlock));
      args.scores = scores + h * kBlock;
      kernels_.score(args);
    }
    ScoreArgs args = FeedbackKeys(*row.segment, layer, block, row.segment->first_row);
    args.rows = 1;
    args.tokens = static_cast<int32_t>(std::min<int64_t>(kBlock, row.position - block * kBlock));
    args.scores = scores + shape_.heads * kBlock;
    kernels_.score(args);
  }
}

void Attention::DecodeForward(int32_t layer, const ValueItem& item, Scratch& scratch) {
  const DecodeRow& row = decode_rows_[item.row];
  const int32_t group_heads = shape_.heads / shape_.kv_heads, width = shape_.head_width();
  const int32_t head = item.begin * group_heads;
  std::fill_n(scratch.m.data(), group_heads, kNoMaximum);
  std::fill_n(scratch.l.data(), group_heads, 0.0f);
  std::fill_n(scratch.acc.data(), group_heads * width, 0.0f);
  for (int64_t block = 0; block <= row.position / kBlock; ++block) {
    const int32_t valid = static_cast<int32_t>(std::min<int64_t>(kBlock, row.position + 1 - block * kBlock));
    float* p = scores_.data() + row.scores + (block * (shape_.heads + 1) + head) * kBlock;
    kernels_.softmax({p, group_heads, valid, 0, scratch.m.data(), scratch.l.data(), scratch.scale.data()});
    AccumulateArgs args{};
    args.values = compact() ? Values::kBF16 : Values::kF32;
    args.p = p;
    args.scale = scratch.scale.data();
    args.rows = group_heads;
    args.valid = valid;
    args.v = state_.Row(PageOf(*row.segment, block), layer, Plane::kV) +
             item.begin * width * state_.layout().number_bytes();
    args.v_stride = shape_.kv_width();
    args.columns = width;
    args.acc = scratch.acc.data();
    args.acc_stride = width;
    kernels_.accumulate(args);
  }
  for (int32_t h = 0; h < group_heads; ++h) {
    StoreForward(row.segment->first_row, 1, head + h, scratch.acc.data() + h * width, width, &scratch.l[h]);
  }
}

void Attention::DecodeFeedback(int32_t layer, const ValueItem& item) {
  const DecodeRow& row = decode_rows_[item.row];
  float* ctx = activations_.ctx.data() + int64_t{row.segment->first_row} * shape_.width + item.begin;
  const int32_t columns = item.end - item.begin;
  std::fill_n(ctx, columns, 0.0f);
  float m = kNoMaximum, l = 0, scale = 0;
  for (int64_t block = 0; block * kBlock < row.position; ++block) {
    const int32_t valid = static_cast<int32_t>(std::min<int64_t>(kBlock, row.position - block * kBlock));
    alignas(64) float p[kBlock];  // each part of the columns weighs anew: the scores are shared
    std::copy_n(scores_.data() + row.scores + (block * (shape_.heads + 1) + shape_.heads) * kBlock, kBlock,
                p);
    kernels_.softmax({p, 1, valid, 0, &m, &l, &scale});
    AccumulateArgs args = FeedbackValues(*row.segment, layer, block, row.position / kBlock);
    args.p = p;
    args.scale = &scale;
    args.rows = 1;
    args.valid = valid;
    args.v = static_cast<const std::byte*>(args.v) + item.begin * (args.values == Values::kF32 ? 4 : 2);
    args.columns = columns;
    args.acc = ctx;
    kernels_.accumulate(args);
  }
  kernels_.normalize({ctx, 0, &l, 1, columns, ctx, 0, true});
}

// --- prefill
// --------------------------------------------------------------------------------------------------------

void Attention::PrefillForward(int32_t layer, const RowGroup& group, int32_t head, Scratch& scratch) {
  const int32_t width = shape_.head_width(), kv_head = head / (shape_.heads / shape_.kv_heads);
  std::fill_n(scratch.m.data(), group.rows, kNoMaximum);
  std::fill_n(scratch.l.data(), group.rows, 0.0f);
  std::fill_n(scratch.acc.data(), group.rows * width, 0.0f);
  for (int64_t block = 0; block <= group.block; ++block) {
    const bool own = block == group.block;
    const int32_t valid = own ? group.slot + 1 : kBlock, step = own ? 1 : 0;
    ScoreArgs score = ForwardKeys(*group.segment, layer, block, group.first_row, head);
    score.rows = group.rows;
    score.tokens = own ? group.slot + group.rows : kBlock;
    score.scores = scratch.p.data();
    kernels_.score(score);
    kernels_.softmax({scratch.p.data(), group.rows, valid, step, scratch.m.data(), scratch.l.data(),
                      scratch.scale.data()});
    AccumulateArgs args{};
    args.values = compact() ? Values::kBF16 : Values::kF32;
    args.p = scratch.p.data();
    args.scale = scratch.scale.data();
    args.rows = group.rows;
    args.valid = valid;
    args.valid_step = step;
    args.v = state_.Row(PageOf(*group.segment, block), layer, Plane::kV) +
             kv_head * width * state_.layout().number_bytes();
    args.v_stride = shape_.kv_width();
    args.columns = width;
    args.acc = scratch.acc.data();
    args.acc_stride = width;
    kernels_.accumulate(args);
  }
  StoreForward(group.first_row, group.rows, head, scratch.acc.data(), width, scratch.l.data());
}

// Sums over the blocks before the segment's first; groups in that block also get the weights of what they see
// of it.
void Attention::PrefillPast(int32_t layer, const RowGroup& group, Scratch& scratch) {
  std::fill_n(activations_.feedback_m.data() + group.first_row, group.rows, kNoMaximum);
  std::fill_n(activations_.feedback_l.data() + group.first_row, group.rows, 0.0f);
  std::fill_n(activations_.ctx.data() + int64_t{group.first_row} * shape_.width,
              int64_t{group.rows} * shape_.width, 0.0f);
  for (int64_t block = 0; block < group.first_block; ++block) AddBlock(layer, group, block, scratch);
  if (group.block == group.first_block) WeighOwnBlock(layer, group);
}

// Adds a closed block to the feedback sums of a group.
void Attention::AddBlock(int32_t layer, const RowGroup& group, int64_t block, Scratch& scratch) {
  ScoreArgs score = FeedbackKeys(*group.segment, layer, block, group.first_row);
  score.rows = group.rows;
  score.tokens = kBlock;
  score.scores = scratch.p.data();
  kernels_.score(score);
  kernels_.softmax({scratch.p.data(), group.rows, kBlock, 0, activations_.feedback_m.data() + group.first_row,
                    activations_.feedback_l.data() + group.first_row, scratch.scale.data()});
  AccumulateArgs args = FeedbackValues(*group.segment, layer, block, group.block);
  args.p = scratch.p.data();
  args.scale = scratch.scale.data();
  args.rows = group.rows;
  args.valid = kBlock;
  args.acc = activations_.ctx.data() + int64_t{group.first_row} * shape_.width;
  kernels_.accumulate(args);
}

// Blocks up to `step` (from the segment's first) are solved: adds to the group's sums what it needs of them
// next.
void Attention::AddSolvedBlocks(int32_t layer, const RowGroup& group, int64_t step, Scratch& scratch) {
  const int64_t group_step = group.block - group.first_block;
  const int64_t run = step / kSolveRun;
  if (group_step <= step) return;
  const bool run_ends = (step + 1) % kSolveRun == 0, in_run = group_step / kSolveRun == run;
  if (!in_run && !run_ends) return;
  for (int64_t s = in_run ? step : run * kSolveRun; s <= step; ++s) {
    AddBlock(layer, group, group.first_block + s, scratch);
  }
  if (group_step == step + 1) WeighOwnBlock(layer, group);
}

// Softmax weights of the group over its own block, strict past; all earlier blocks are in the sums.
void Attention::WeighOwnBlock(int32_t layer, const RowGroup& group) {
  float* p = activations_.own_p.data() + int64_t{group.first_row} * kBlock;
  ScoreArgs score = FeedbackKeys(*group.segment, layer, group.block, group.first_row);
  score.rows = group.rows;
  score.tokens = group.slot + group.rows - 1;
  score.scores = p;
  kernels_.score(score);
  kernels_.softmax({p, group.rows, group.slot, 1, activations_.feedback_m.data() + group.first_row,
                    activations_.feedback_l.data() + group.first_row,
                    activations_.own_scale.data() + group.first_row});
}

int64_t Attention::SolveBlock(int64_t step, const SolveItem& item, const FeedbackOutArgs& out) {
  const Segment& segment = *item.segment;
  const int64_t block = segment.start / kBlock + step;
  const int64_t begin = std::max<int64_t>(segment.start, block * kBlock);
  const int64_t end = std::min<int64_t>(segment.start + segment.rows, (block + 1) * kBlock);
  if (begin >= end) return 0;
  SolveArgs args{};
  args.row_begin = static_cast<int32_t>(segment.first_row + begin - segment.start);
  args.row_end = static_cast<int32_t>(segment.first_row + end - segment.start);
  args.column_begin = item.column_begin;
  args.column_end = item.column_end;
  args.p = activations_.own_p.data();
  args.scale = activations_.own_scale.data();
  args.l = activations_.feedback_l.data();
  args.acc = activations_.ctx.data();
  args.width = shape_.width;
  args.out = out;
  return kernels_.solve(args);
}

}  // namespace sessa::cpu
