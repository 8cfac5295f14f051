#include "tools/step_timer.h"

#include <algorithm>
#include <chrono>
#include <deque>

#include "absl/strings/str_cat.h"
#include "runtime/step_batch_builder.h"

namespace sessa {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

absl::Status NoPages(int64_t tokens) {
  return absl::ResourceExhaustedError(absl::StrCat("no state pages for sessions of ", tokens, " tokens"));
}

// Sessions that give their pages back at the end.
class Sessions {
 public:
  Sessions(StateArena* arena, int32_t count) : arena_(arena), tables_(count) { params_.temperature = 0; }
  ~Sessions() { Release(); }

  void Release() {
    for (PageTable& table : tables_) table.Release(arena_);
  }
  // Pages up to `tokens` for every session, without copies: nothing is shared.
  absl::Status Reserve(int64_t tokens) {
    std::vector<PageCopy> copies;
    for (PageTable& table : tables_) {
      if (!table.EnsureCapacity(tokens, arena_, &copies)) return NoPages(tokens);
    }
    return absl::OkStatus();
  }
  OutputRow Output(int32_t row, int64_t position, int32_t slot) const {
    OutputRow output;
    output.row = row;
    output.position = position;
    output.slot = slot;
    output.params = &params_;
    return output;
  }
  const SampleParams& params() const { return params_; }
  int32_t size() const { return static_cast<int32_t>(tables_.size()); }
  PageTable& operator[](int32_t i) { return tables_[i]; }

 private:
  StateArena* const arena_;
  std::vector<PageTable> tables_;
  SampleParams params_;
};

bool Enough(const Timing& timing, Clock::time_point start, const TimerOptions& options) {
  const size_t entries = timing.seconds.size();
  return entries >= options.repeats || (entries >= 3 && SecondsSince(start) > options.max_seconds);
}

}  // namespace

double Timing::MedianSeconds() const { return Median(seconds); }
double Timing::MedianDeviceSeconds() const { return Median(device_seconds); }

absl::Status CheckTimerOptions(const TimerOptions& options) {
  const struct {
    bool right;
    const char* field;
    double value, least;
  } checks[] = {
      {options.warmup >= 0, "warmup", double(options.warmup), 0},
      {options.repeats >= 1, "repeats", double(options.repeats), 1},
      {options.max_seconds >= 0, "max_seconds", options.max_seconds, 0},  // a NaN is not
      {options.max_rows >= 1, "max_rows", double(options.max_rows), 1},
  };
  for (const auto& [right, field, value, least] : checks) {
    if (!right) {
      return absl::InvalidArgumentError(absl::StrCat(field, " must be at least ", least, ", not ", value));
    }
  }
  return absl::OkStatus();
}

int64_t DecodeTokens(int64_t context, const TimerOptions& options) {
  return context + options.warmup + options.repeats + 2;  // two: steps in flight at the end
}

absl::StatusOr<Timing> TimeDecode(Model* model, StateArena* arena, int32_t batch, int64_t context,
                                  const TimerOptions& options) {
  absl::Status status = CheckTimerOptions(options);
  if (!status.ok()) return status;
  Sessions sessions(arena, batch);
  status = sessions.Reserve(DecodeTokens(context, options));
  if (!status.ok()) return status;
  for (int32_t i = 0; i < batch; ++i) sessions[i].Commit(context);

  const bool ahead = options.pipelined && model->ops().info().steps_in_flight > 1 &&
                     model->ops().CanRunAhead(sessions.params());
  const int64_t depth = ahead ? 2 : 1;
  StepBatch batches[2];
  std::vector<int32_t> tokens(batch, 1);
  Timing timing;
  Clock::time_point start = Clock::now(), last = start;
  for (int64_t step = 0; !Enough(timing, start, options); ++step) {
    StepBatch& next = batches[step % depth];
    StepBatchBuilder builder(&next);
    for (int32_t i = 0; i < batch; ++i) {
      const int64_t position = sessions[i].tokens();
      const OutputRow output = sessions.Output(0, position + 1, ahead ? i : -1);
      builder.Append({&tokens[i], 1}, position, sessions[i], {&output, 1}, ahead && step > 0 ? i : -1);
      sessions[i].Commit(position + 1);
    }
    model->Launch(next);
    if (step + 1 < depth) continue;
    absl::StatusOr<StepResult> result = model->Collect();
    if (!result.ok()) return result.status();
    for (int32_t i = 0; i < batch; ++i) tokens[i] = std::max(0, result->outputs[i].token);
    if (step + 1 - depth == options.warmup - 1) start = Clock::now();
    if (step + 1 - depth >= options.warmup) {
      timing.seconds.push_back(SecondsSince(last));
      timing.device_seconds.push_back(result->device_seconds);
    }
    last = Clock::now();
  }
  for (int64_t left = 1; left < depth; ++left) {
    absl::StatusOr<StepResult> result = model->Collect();
    if (!result.ok()) return result.status();
  }
  return timing;
}

namespace {

// Fills `batch` with up to max_rows rows of the sessions in `queue`, which hold less than `context` tokens.
void PackPrefill(Sessions* sessions, std::deque<int32_t>* queue, absl::Span<const int32_t> tokens,
                 int32_t max_rows, StepBatch* batch) {
  StepBatchBuilder builder(batch);
  int32_t room = max_rows;
  while (!queue->empty() && room > 0) {
    PageTable& table = (*sessions)[queue->front()];
    const int64_t start = table.tokens();
    const int32_t rows = static_cast<int32_t>(std::min<int64_t>(room, tokens.size() - start));
    if (rows == 1 && !batch->segments.empty()) break;  // single rows come first in a batch
    const bool last = start + rows == tokens.size();
    const OutputRow output = sessions->Output(rows - 1, start + rows, -1);
    builder.Append(tokens.subspan(start, rows), start, table, absl::MakeConstSpan(&output, last ? 1 : 0));
    table.Commit(start + rows);
    room -= rows;
    if (last) queue->pop_front();
  }
}

}  // namespace

absl::StatusOr<Timing> TimePrefill(Model* model, StateArena* arena, int32_t batch, int64_t context,
                                   const TimerOptions& options) {
  if (const absl::Status status = CheckTimerOptions(options); !status.ok()) return status;
  const int32_t depth = options.pipelined ? std::min(2, model->ops().info().steps_in_flight) : 1;
  std::vector<int32_t> tokens(context);
  for (int64_t i = 0; i < context; ++i) tokens[i] = static_cast<int32_t>(i * 7919 % model->shape().vocab);
  StepBatch batches[2];
  Timing timing;
  Clock::time_point start = Clock::now();
  for (int32_t repeat = 0; !Enough(timing, start, options); ++repeat) {
    Sessions sessions(arena, batch);
    absl::Status status = sessions.Reserve(context);
    if (!status.ok()) return status;
    std::deque<int32_t> queue;
    for (int32_t i = 0; i < batch; ++i) queue.push_back(i);

    const Clock::time_point begin = Clock::now();
    double device_seconds = 0;
    int64_t launched = 0, collected = 0;
    while (!queue.empty() || collected < launched) {
      if (!queue.empty()) {
        StepBatch& next = batches[launched++ % depth];
        PackPrefill(&sessions, &queue, tokens, options.max_rows, &next);
        model->Launch(next);
        if (launched - collected < depth && !queue.empty()) continue;
      }
      absl::StatusOr<StepResult> result = model->Collect();
      if (!result.ok()) return result.status();
      device_seconds += result->device_seconds;
      ++collected;
    }
    if (repeat + 1 == options.warmup) start = Clock::now();
    if (repeat < options.warmup) continue;
    timing.seconds.push_back(SecondsSince(begin));
    timing.device_seconds.push_back(device_seconds);
    timing.steps = launched;
  }
  return timing;
}

}  // namespace sessa
