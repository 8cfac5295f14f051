#include "kernels/cuda/step_tables.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/attention_schedule.h"

namespace sessa::cuda {
namespace {

constexpr int64_t kAlignment = 64;  // bytes; of each table

int64_t AlignUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

OutputMeta MetaOf(const OutputRow& output, int32_t row) {
  OutputMeta meta = {};
  meta.row = row;
  meta.target = output.target;
  meta.slot = output.slot;
  if (!DeviceGives(output)) return meta;  // mode kNone
  if (output.target >= 0) {
    meta.mode = OutputMode::kScore;
    return meta;
  }
  const SampleParams* params = output.params;
  meta.mode = OutputMode::kSample;
  meta.top_k = params->top_k;
  meta.temperature = params->temperature;
  meta.top_p = params->top_p;
  meta.min_p = params->min_p;
  meta.seed = params->seed;
  meta.sample_index = params->sample_index;
  meta.position = output.position;
  return meta;
}

// Where a batch splits into decode rows and the rest.
struct Split {
  size_t decode_segments = 0;
  int32_t decode_rows = 0, decode_outputs = 0;
};

Split SplitOf(const StepBatch& batch) {
  Split split;
  while (split.decode_segments < batch.segments.size() && batch.segments[split.decode_segments].rows == 1) {
    ++split.decode_segments;
  }
  split.decode_rows = static_cast<int32_t>(split.decode_segments);
  while (split.decode_outputs < static_cast<int32_t>(batch.outputs.size()) &&
         batch.outputs[split.decode_outputs].row < split.decode_rows) {
    ++split.decode_outputs;
  }
  return split;
}

RowMeta MetaOf(const StepBatch& batch, const Segment& segment, int32_t i) {
  RowMeta meta = {};
  meta.token = batch.tokens[segment.first_row + i];
  meta.slot = segment.token_slot;
  meta.position = static_cast<int32_t>(segment.start + i);
  meta.page_begin = segment.page_begin;
  meta.open_page = segment.open_page;
  meta.live = 1;
  return meta;
}

// Units and runs of each row's attention, running; rows beyond `count` have none. Returns how many runs
// should be items as a whole: towards the end units are, so that all multiprocessors end together. None where
// there are too few units for that: whoever had a run would end last.
int32_t Schedule(const RowMeta* rows, int32_t count, int32_t bucket, bool inclusive, int32_t multiprocessors,
                 int32_t* first_unit, int32_t* first_run) {
  first_unit[0] = first_run[0] = 0;
  for (int32_t r = 0; r < bucket; ++r) {
    const int32_t units = r < count ? UnitsOf(rows[r].position + (inclusive ? 1 : 0)) : 0;
    first_unit[r + 1] = first_unit[r] + units;
    first_run[r + 1] = first_run[r] + RunsOf(units);
  }
  if (2 * first_unit[bucket] < 5 * multiprocessors) return 0;
  return std::max(first_run[bucket] - multiprocessors / kRunUnits, 0);
}

}  // namespace

bool DeviceGives(const OutputRow& output) {
  if (output.target < 0) return output.params->IsPlain();
  return output.params == nullptr || output.params->top_logprobs <= 0;
}

TableLayout::TableLayout(int32_t max_segments) {
  const int64_t segments = BucketOf(max_segments);
  decode_rows = AlignUp(sizeof(DecodeHeader));
  decode_outputs = decode_rows + AlignUp(segments * sizeof(RowMeta));
  feedback_first = decode_outputs + AlignUp(segments * sizeof(OutputMeta));
  forward_first = feedback_first + AlignUp((segments + 1) * sizeof(int32_t));
  feedback_runs = forward_first + AlignUp((segments + 1) * sizeof(int32_t));
  forward_runs = feedback_runs + AlignUp((segments + 1) * sizeof(int32_t));
  pages = forward_runs + AlignUp((segments + 1) * sizeof(int32_t));
}

int32_t BucketOf(int32_t rows) {
  if (rows <= 0) return 0;
  for (const int32_t bucket : {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256}) {
    if (rows <= bucket) return bucket;
  }
  return (rows + 63) / 64 * 64;
}

int64_t TableBytes(int32_t max_segments, int64_t rows, int64_t outputs, int64_t pages) {
  return TableLayout(max_segments).pages + AlignUp((pages + 1) * sizeof(PageId)) +
         AlignUp(rows * sizeof(RowMeta)) + AlignUp(outputs * sizeof(OutputMeta));
}

StepPlan BuildTables(const StepBatch& batch, int32_t max_segments, PageId scratch_page,
                     PageId scratch_open_page, int32_t multiprocessors, void* tables) {
  const Split split = SplitOf(batch);
  StepPlan plan{TableLayout(max_segments)};
  plan.decode_rows = split.decode_rows;
  plan.decode_outputs = split.decode_outputs;
  plan.row_bucket = BucketOf(plan.decode_rows);
  plan.prefill_rows = batch.rows() - plan.decode_rows;
  plan.prefill_outputs = static_cast<int32_t>(batch.outputs.size()) - plan.decode_outputs;
  TableLayout& layout = plan.layout;
  const int64_t page_count = static_cast<int64_t>(batch.pages.size());
  layout.prefill_rows = layout.pages + AlignUp((page_count + 1) * sizeof(PageId));
  layout.prefill_outputs = layout.prefill_rows + AlignUp(plan.prefill_rows * sizeof(RowMeta));
  layout.bytes = layout.prefill_outputs + AlignUp(batch.outputs.size() * sizeof(OutputMeta));

  char* base = static_cast<char*>(tables);
  auto* pages = reinterpret_cast<PageId*>(base + layout.pages);
  std::copy(batch.pages.begin(), batch.pages.end(), pages);
  pages[page_count] = scratch_page;

  auto* decode = reinterpret_cast<RowMeta*>(base + layout.decode_rows);
  for (int32_t r = 0; r < plan.decode_rows; ++r) decode[r] = MetaOf(batch, batch.segments[r], 0);
  RowMeta padding = {};
  padding.slot = -1;
  padding.page_begin = static_cast<int32_t>(page_count);
  padding.open_page = scratch_open_page;
  std::fill(decode + plan.decode_rows, decode + plan.row_bucket, padding);
  auto* header = reinterpret_cast<DecodeHeader*>(base);
  const auto table = [&](int64_t at) { return reinterpret_cast<int32_t*>(base + at); };
  header->whole_runs[0] = Schedule(decode, plan.decode_rows, plan.row_bucket, false, multiprocessors,
                                   table(layout.feedback_first), table(layout.feedback_runs));
  header->whole_runs[1] = Schedule(decode, plan.decode_rows, plan.row_bucket, true, multiprocessors,
                                   table(layout.forward_first), table(layout.forward_runs));
  plan.attention_units = table(layout.forward_first)[plan.row_bucket];
  header->fine = plan.attention_units <= multiprocessors / kMaxLeaves ? 1 : 0;

  auto* rows = reinterpret_cast<RowMeta*>(base + layout.prefill_rows);
  for (size_t s = split.decode_segments; s < batch.segments.size(); ++s) {
    for (int32_t i = 0; i < batch.segments[s].rows; ++i) *rows++ = MetaOf(batch, batch.segments[s], i);
  }

  // Outputs of both passes, side by side; those of the decode pass in their own place as well.
  auto* outputs = reinterpret_cast<OutputMeta*>(base + layout.prefill_outputs);
  for (size_t i = 0; i < batch.outputs.size(); ++i) {
    const int32_t row = batch.outputs[i].row;
    outputs[i] = MetaOf(batch.outputs[i], row < plan.decode_rows ? row : row - plan.decode_rows);
  }
  auto* fixed = reinterpret_cast<OutputMeta*>(base + layout.decode_outputs);
  std::copy(outputs, outputs + plan.decode_outputs, fixed);
  std::fill(fixed + plan.decode_outputs, fixed + plan.row_bucket, OutputMeta{});
  return plan;
}

}  // namespace sessa::cuda
