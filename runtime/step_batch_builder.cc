#include "runtime/step_batch_builder.h"

#include <cassert>

namespace sessa {

StepBatchBuilder::StepBatchBuilder(StepBatch* batch) : batch_(batch) {
  batch_->segments.clear();
  batch_->tokens.clear();
  batch_->pages.clear();
  batch_->outputs.clear();
}

int32_t StepBatchBuilder::Append(absl::Span<const int32_t> tokens, int64_t start, const PageTable& table,
                                 absl::Span<const OutputRow> outputs, int32_t token_slot) {
  assert(!tokens.empty() && (token_slot < 0 || tokens.size() == 1));
  assert(batch_->segments.empty() || tokens.size() > 1 || batch_->segments.back().rows == 1);
  Segment segment;
  segment.first_row = batch_->rows();
  segment.rows = static_cast<int32_t>(tokens.size());
  segment.start = start;
  segment.page_begin = static_cast<int32_t>(batch_->pages.size());
  segment.page_count = static_cast<int32_t>((start + segment.rows + kPageTokens - 1) / kPageTokens);
  segment.open_page = table.open_page();
  segment.token_slot = token_slot;
  assert(segment.page_count <= table.pages().size());

  batch_->pages.insert(batch_->pages.end(), table.pages().begin(),
                       table.pages().begin() + segment.page_count);
  batch_->tokens.insert(batch_->tokens.end(), tokens.begin(), tokens.end());
  for (OutputRow output : outputs) {
    assert(output.row >= 0 && output.row < segment.rows);
    output.row += segment.first_row;
    assert(batch_->outputs.empty() || batch_->outputs.back().row < output.row);
    batch_->outputs.push_back(output);
  }
  batch_->segments.push_back(segment);
  return segment.first_row;
}

}  // namespace sessa
