// Puts sessions' tokens together into a StepBatch.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/ops.h"
#include "runtime/state_arena.h"

namespace sessa {

// Fills one StepBatch, which stays the caller's. Not thread-safe.
class StepBatchBuilder {
 public:
  // Empties `batch`, keeping its memory.
  explicit StepBatchBuilder(StepBatch* batch);

  // Appends tokens that follow `start` tokens of a session. `table` has capacity for start + tokens.size().
  // Every OutputRow::row in `outputs` counts from the segment's first row, ascending. token_slot >= 0: one
  // token, whose id the device takes from that slot. Single tokens come before longer segments. Returns the
  // segment's first row.
  int32_t Append(absl::Span<const int32_t> tokens, int64_t start, const PageTable& table,
                 absl::Span<const OutputRow> outputs, int32_t token_slot = -1);

 private:
  StepBatch* batch_;
};

}  // namespace sessa
