// Both attentions of a step. Rows of decode segments (one row) stream their pages; rows of prefill segments
// go in groups, by blocks of the context. Either way a row meets the blocks of 64 tokens in ascending order
// through the same kernels, so its result is the same bit for bit.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/activations.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/worker_pool.h"
#include "kernels/host_state.h"
#include "kernels/ops.h"

namespace sessa::cpu {

// The running maximum of a row that has seen nothing.
inline constexpr float kNoMaximum = -std::numeric_limits<float>::infinity();

class Attention {
 public:
  // All outlive this.
  Attention(const Kernels& kernels, bool bf16_scores, const HostState& state, WorkerPool& pool,
            Activations& activations);

  // Plans the work of a step; `batch` stays until its end.
  void Begin(const StepBatch& batch);
  // o of all rows; ctx of decode rows; of prefill rows, the feedback sums over the blocks before the
  // segment's first.
  void Attend(int32_t layer);
  // s and u of prefill rows. `out`: where they go. Returns how many numbers of s did not fit fp16.
  int64_t Solve(int32_t layer, const FeedbackOutArgs& out);

 private:
  struct DecodeRow {
    const Segment* segment;
    int64_t position;
    int64_t scores;  // of this row in scores_, (blocks, H + 1, 64); the last row of a block is the feedback's
  };
  // Consecutive rows of a prefill segment that lie in one block.
  struct RowGroup {
    const Segment* segment;
    int32_t first_row, rows;
    int32_t slot;         // of the first row within its block
    int64_t block;        // the group's own
    int64_t first_block;  // the segment's first
  };
  struct ScoreItem {
    int32_t row, block_begin, block_end;  // row: of decode_rows_
  };
  struct ValueItem {
    int32_t row;
    bool feedback;
    int32_t begin, end;  // columns (feedback) or key/value heads
  };
  struct SolveItem {
    const Segment* segment;
    int32_t column_begin, column_end;
  };
  // Of one thread.
  struct Scratch {
    Buffer<float> p;            // (group rows, 64)
    Buffer<float> acc;          // (group rows, head width)
    Buffer<float> m, l, scale;  // (group rows); a Buffer shares no cache line with another thread's
  };

  bool compact() const { return state_.layout().dtype == StateDtype::kCompact; }
  PageId PageOf(const Segment& segment, int64_t block) const {
    return batch_->pages[segment.page_begin + block];
  }
  // Arguments filled but for rows, p, scale and valid tokens: s of a block as rows of block `reader` see it.
  AccumulateArgs FeedbackValues(const Segment& segment, int32_t layer, int64_t block, int64_t reader) const;
  ScoreArgs FeedbackKeys(const Segment& segment, int32_t layer, int64_t block, int64_t row) const;
  ScoreArgs ForwardKeys(const Segment& segment, int32_t layer, int64_t block, int64_t row,
                        int32_t head) const;
  void StoreForward(int64_t row, int32_t rows, int32_t head, const float* acc, int64_t acc_stride,
                    const float* l);

  void PlanDecode();
  void PlanPrefill();
  void ScoreDecode(int32_t layer, const ScoreItem& item);
  void DecodeForward(int32_t layer, const ValueItem& item, Scratch& scratch);
  void DecodeFeedback(int32_t layer, const ValueItem& item);
  void PrefillForward(int32_t layer, const RowGroup& group, int32_t head, Scratch& scratch);
  void PrefillPast(int32_t layer, const RowGroup& group, Scratch& scratch);
  void AddBlock(int32_t layer, const RowGroup& group, int64_t block, Scratch& scratch);
  void AddSolvedBlocks(int32_t layer, const RowGroup& group, int64_t step, Scratch& scratch);
  void WeighOwnBlock(int32_t layer, const RowGroup& group);
  int64_t SolveBlock(int64_t block, const SolveItem& item, const FeedbackOutArgs& out);

  const Kernels& kernels_;
  const HostState& state_;
  const ModelShape& shape_;
  WorkerPool& pool_;
  Activations& activations_;
  const Keys keys_;
  std::vector<Scratch> scratch_;  // by thread

  // Of the step.
  const StepBatch* batch_ = nullptr;
  std::vector<DecodeRow> decode_rows_;
  std::vector<ScoreItem> score_items_;
  std::vector<ValueItem> value_items_;
  std::vector<RowGroup> groups_;
  std::vector<SolveItem> solve_items_;
  int64_t solve_steps_ = 0;  // blocks of the prefill segment with the most
  Buffer<float> scores_;
};

}  // namespace sessa::cpu
