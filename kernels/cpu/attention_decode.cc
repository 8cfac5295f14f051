// Rows of decode segments: all scores first, then weights and sums; each part of the columns weighs anew.
#include <algorithm>

#include "kernels/cpu/attention.h"

namespace sessa::cpu {

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

}  // namespace sessa::cpu
