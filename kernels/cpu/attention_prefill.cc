// Rows of prefill segments, in groups, and the substitution of the feedback attention.
#include <algorithm>

#include "kernels/cpu/attention.h"

namespace sessa::cpu {
namespace {

// Solved blocks are added at once to rows in the same run of blocks, and a whole run at a time to all later
// rows: their sums are too large for a core's own cache, and travelled between the cores at every block
// otherwise.
constexpr int64_t kSolveRun = 4;

}  // namespace

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
