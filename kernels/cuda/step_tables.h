// What the kernels of a step know about its rows: tables built on the host and copied to the device once a
// step, in one piece.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/device_types.h"
#include "kernels/ops.h"

namespace sessa::cuda {

// Whether the device gives all that is asked of a row: a draw from plain parameters, or a target's
// log-probability without the most likely tokens beside it. The others are the host's (host_rows.h).
bool DeviceGives(const OutputRow& output);

// Where the tables lie in their buffer, in bytes. The decode part has one place for all steps, because
// captured graphs hold its addresses; the rest follows the page tables.
struct TableLayout {
  int64_t header = 0;           // DecodeHeader
  int64_t decode_rows = 0;      // RowMeta (max_segments)
  int64_t decode_outputs = 0;   // OutputMeta (max_segments)
  int64_t feedback_first = 0;   // int32 (max_segments + 1): units of the rows, running
  int64_t forward_first = 0;    // int32 (max_segments + 1)
  int64_t feedback_runs = 0;    // int32 (max_segments + 1): runs of the rows, running
  int64_t forward_runs = 0;     // int32 (max_segments + 1)
  int64_t pages = 0;            // int32, page tables of all segments and the scratch page
  int64_t prefill_rows = 0;     // RowMeta; of this step
  int64_t prefill_outputs = 0;  // OutputMeta; of all outputs of this step
  int64_t bytes = 0;            // to copy for this step

  explicit TableLayout(int32_t max_segments);
};

// A step as the backend runs it: its first `decode_rows` rows as one pass, the rest as another.
struct StepPlan {
  TableLayout layout;
  int32_t decode_rows = 0, decode_outputs = 0;  // without padding
  int32_t row_bucket = 0;                       // with it; of outputs, where there are any, as well
  int32_t prefill_rows = 0, prefill_outputs = 0;
  int32_t attention_units = 0;  // of the decode pass (attention_schedule.h)
};

// The smallest batch bucket that holds `rows`: 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, then
// multiples of 64. 0 for none.
int32_t BucketOf(int32_t rows);

// Bytes that the tables of a step take, of so many rows with so many outputs and page table entries in all.
int64_t TableBytes(int32_t max_segments, int64_t rows, int64_t outputs, int64_t pages);

// Fills `tables`, of TableBytes for the batch. `scratch_page` and `scratch_open_page` are where padded rows
// write. `multiprocessors`: of the card, to which attention is dealt (attention_schedule.h).
StepPlan BuildTables(const StepBatch& batch, int32_t max_segments, PageId scratch_page,
                     PageId scratch_open_page, int32_t multiprocessors, void* tables);

}  // namespace sessa::cuda
