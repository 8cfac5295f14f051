#include "tests/scheduler/toy_ops.h"

#include <algorithm>
#include <utility>

namespace sessa::toy {
namespace {

uint64_t Mix(uint64_t x) {  // splitmix64's finaliser
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
uint64_t Fold(uint64_t sum, uint64_t v) { return Mix(sum ^ (v * 3)); }
uint64_t Cut(uint64_t v) { return v & 0xffffffffu; }
uint64_t NumberOf(int32_t token, int64_t position, uint64_t past) {
  return Mix(past ^ Mix(static_cast<uint64_t>(token) << 32 ^ static_cast<uint64_t>(position)));
}

bool Contains(const std::vector<int32_t>& tokens, int32_t token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

OutputResult Output(uint64_t v, bool poisoned, int64_t position, int32_t sampled_before, int32_t target,
                    const SampleParams* params, const TokenCounts* counts) {
  OutputResult result;
  result.finite = !poisoned;
  uint64_t h = Mix(v);
  if (target >= 0) {
    result.token = target;
    result.logprob = -static_cast<float>(Mix(h ^ target) % 1000);
    return result;
  }
  if (params->temperature > 0) {
    h = Mix(h ^ params->seed * 7 ^ params->sample_index * 13 ^ static_cast<uint64_t>(position));
  }
  if (counts != nullptr) {
    uint64_t sum = 0;
    for (const auto& [token, count] : *counts) sum += Mix(static_cast<uint64_t>(token) << 20 ^ count);
    h = Mix(h ^ sum);
  }
  result.token = static_cast<int32_t>(h % (kVocab - 1));
  while (sampled_before < params->min_tokens && Contains(params->enders, result.token)) {
    result.token = (result.token + 1) % (kVocab - 1);
  }
  if (params->top_logprobs >= 0) result.logprob = -static_cast<float>(Mix(h ^ result.token) % 1000);
  return result;
}

}  // namespace

ModelShape Shape() {
  ModelShape shape;
  shape.vocab = kVocab;
  shape.width = 8;
  shape.layers = 2;
  shape.heads = shape.kv_heads = 1;
  return shape;
}

void Oracle::Append(int32_t token) {
  const int64_t t = size();
  last_ = NumberOf(token, t, open_);
  tokens_.push_back(token);
  poisoned_ = poisoned_ || token == kPoison;
  open_ = Fold(open_, last_);
  block_.push_back(last_);
  if ((t + 1) % kPageTokens == 0) {
    for (uint64_t v : block_) closed_ = Fold(closed_, compact_ ? Cut(v) : v);
    open_ = closed_;
    block_.clear();
  }
}

OutputResult Oracle::Next(const SampleParams* params, int32_t sampled_before, int32_t target) const {
  TokenCounts counts;
  const bool counted = params != nullptr && (params->repetition_penalty != 1.0f ||
                                             params->presence_penalty != 0 || params->frequency_penalty != 0);
  if (counted) {
    for (int32_t token : tokens_) ++counts[token];
  }
  return Output(last_, poisoned_, size(), sampled_before, target, params, counted ? &counts : nullptr);
}

ToyOps::ToyOps(const Options& options, std::shared_ptr<Control> control)
    : options_(options),
      control_(std::move(control)),
      slots_(options.max_segments, -1),
      slot_runs_ahead_(options.max_segments, false) {
  info_.name = "toy";
  info_.max_output_rows = options.max_output_rows;
  info_.steps_in_flight = options.steps_in_flight;
  layout_.shape = Shape();
  layout_.dtype = options.compact ? StateDtype::kCompact : StateDtype::kF32;
}

absl::Status ToyOps::AllocateState(int32_t pages, int32_t open_pages) {
  pages_.resize(pages);
  open_pages_.resize(open_pages);
  return absl::OkStatus();
}

void ToyOps::CopyPage(PageId from, PageId to) {
  Work work;
  work.from = from;
  work.to = to;
  queue_.push_back(work);
}

void ToyOps::CopyOpenPage(PageId from, PageId to) {
  CopyPage(from, to);
  queue_.back().open = true;
}

absl::Status ToyOps::ReadState(PageId, int32_t, Plane, int32_t, int32_t, float*) {
  return absl::UnimplementedError("the toy model has no planes");
}

bool ToyOps::CanRunAhead(const SampleParams& params) const {
  return params.repetition_penalty == 1.0f && params.presence_penalty == 0.0f &&
         params.frequency_penalty == 0.0f && params.top_logprobs < 0;
}

absl::StatusOr<std::vector<float>> ToyOps::ReadLogits(int32_t) {
  return absl::UnimplementedError("the toy model has no logits");
}

void ToyOps::Expect(bool truth, const char* what) {
  if (!truth) control_->errors.push_back(what);
}

void ToyOps::BeginStep(const StepBatch& batch) {
  const auto steps =
      std::count_if(queue_.begin(), queue_.end(), [](const Work& w) { return w.batch != nullptr; });
  Expect(steps < options_.steps_in_flight, "more steps in flight than allowed");
  CheckBatch(batch);
  launching_ = &batch;
  passed_ = false;
  control_->calls = {};
  ++control_->steps;
  if (control_->on_step) control_->on_step(batch);
}

void ToyOps::CheckBatch(const StepBatch& batch) {
  Expect(batch.rows() > 0 && batch.rows() <= options_.max_rows, "rows of a batch");
  Expect(batch.segments.size() <= options_.max_segments, "segments of a batch");
  std::set<PageId> written, open_written;
  int32_t row = 0;
  bool longer = false;
  for (const Segment& s : batch.segments) {
    Expect(s.first_row == row && s.rows > 0, "segments cover the rows");
    Expect(s.rows > 1 || !longer, "single tokens come first");
    longer = longer || s.rows > 1;
    row += s.rows;
    Expect(s.page_count * kPageTokens >= s.start + s.rows, "the page table covers the segment");
    Expect(s.page_begin + s.page_count <= batch.pages.size(), "the page table lies in the batch");
    for (int64_t i = 0; i < s.page_count; ++i) {
      const PageId page = batch.pages[s.page_begin + i];
      Expect(page >= 0 && page < pages_.size(), "page id");
      if (i >= s.start / kPageTokens) Expect(written.insert(page).second, "one writer a page");
    }
    if (options_.compact) {
      Expect(s.open_page >= 0 && s.open_page < open_pages_.size(), "open page id");
      Expect(open_written.insert(s.open_page).second, "one writer an open page");
    }
    Expect(s.token_slot < options_.max_segments, "token slot");
    Expect(s.token_slot < 0 || slot_runs_ahead_[s.token_slot], "CanRunAhead is respected");
  }
  Expect(row == batch.rows(), "segments cover the rows");
  for (size_t i = 1; i < batch.outputs.size(); ++i) {
    Expect(batch.outputs[i - 1].row < batch.outputs[i].row, "outputs by ascending row");
  }
  for (const OutputRow& output : batch.outputs) {
    if (output.slot >= 0) slot_runs_ahead_[output.slot] = CanRunAhead(*output.params);
  }
}

uint64_t ToyOps::Fingerprint(const StepBatch& batch) {
  uint64_t sum = 0;
  for (const Segment& s : batch.segments) sum = Mix(sum ^ s.start * 31 ^ s.rows ^ s.token_slot);
  for (int32_t token : batch.tokens) sum = Mix(sum ^ token);
  for (PageId page : batch.pages) sum = Mix(sum ^ page);
  for (const OutputRow& output : batch.outputs) {
    sum = Mix(sum ^ output.row ^ output.position);
    if (output.counts == nullptr) continue;
    for (const auto& [token, count] : *output.counts) sum += Mix(static_cast<uint64_t>(token) << 20 ^ count);
  }
  return sum;
}

int32_t ToyOps::pass_output_count() const { return static_cast<int32_t>(launching_->outputs.size()); }

void ToyOps::Head(int32_t, int32_t count) {
  Expect(count <= options_.max_output_rows, "rows of a Head slice");
  ++control_->calls.head;
}

void ToyOps::EndStep() {
  Work work;
  work.batch = launching_;
  work.fingerprint = Fingerprint(*launching_);
  queue_.push_back(work);
}

absl::StatusOr<StepResult> ToyOps::Collect() {
  for (;;) {
    if (queue_.empty()) return absl::FailedPreconditionError("nothing was launched");
    const Work work = queue_.front();
    queue_.pop_front();
    if (work.batch == nullptr) {
      (work.open ? open_pages_ : pages_)[work.to] = (work.open ? open_pages_ : pages_)[work.from];
      continue;
    }
    Expect(Fingerprint(*work.batch) == work.fingerprint, "the batch is unchanged until Collect");
    if (collected_++ == control_->fail_at_step) return absl::InternalError("injected device fault");
    return Execute(*work.batch);
  }
}

StepResult ToyOps::Execute(const StepBatch& batch) {
  StepResult result;
  size_t next_output = 0;
  // The outputs write their slots after all rows have read theirs.
  for (const Segment& segment : batch.segments) ExecuteSegment(batch, segment, &next_output, &result);
  for (size_t i = 0; i < batch.outputs.size(); ++i) {
    if (batch.outputs[i].slot >= 0) slots_[batch.outputs[i].slot] = result.outputs[i].token;
  }
  result.device_seconds = 1e-6 + options_.seconds_per_row * batch.rows();
  for (const OutputRow& output : batch.outputs) {
    if (output.target >= 0) result.host_seconds += options_.host_seconds_per_target;
  }
  return result;
}

void ToyOps::ExecuteSegment(const StepBatch& batch, const Segment& segment, size_t* next_output,
                            StepResult* result) {
  const PageId* table = batch.pages.data() + segment.page_begin;
  const int64_t block_start = segment.start - segment.start % kPageTokens;
  uint64_t closed = 0;  // fold of the blocks before that of the row
  bool poisoned = false;
  for (int64_t j = 0; j < block_start; ++j) {
    const Page& page = pages_[table[j / kPageTokens]];
    closed = Fold(closed, page.v[j % kPageTokens]);
    poisoned = poisoned || page.poisoned[j % kPageTokens];
  }
  uint64_t past = closed;
  for (int64_t j = block_start; j < segment.start; ++j) {
    const Page& page = options_.compact ? open_pages_[segment.open_page] : pages_[table[j / kPageTokens]];
    past = Fold(past, page.v[j % kPageTokens]);
    poisoned = poisoned || page.poisoned[j % kPageTokens];
  }
  for (int32_t r = 0; r < segment.rows; ++r) {
    const int64_t t = segment.start + r;
    const int32_t token =
        segment.token_slot >= 0 ? slots_[segment.token_slot] : batch.tokens[segment.first_row + r];
    const uint64_t v = NumberOf(token, t, past);
    poisoned = poisoned || token == kPoison;
    Page& page = pages_[table[t / kPageTokens]];
    page.v[t % kPageTokens] = options_.compact ? Cut(v) : v;
    page.poisoned[t % kPageTokens] = poisoned;
    if (options_.compact) {
      open_pages_[segment.open_page].v[t % kPageTokens] = v;
      open_pages_[segment.open_page].poisoned[t % kPageTokens] = poisoned;
    }
    past = Fold(past, v);
    if ((t + 1) % kPageTokens == 0) {
      for (uint64_t closed_v : page.v) closed = Fold(closed, closed_v);
      past = closed;
    }
    while (*next_output < batch.outputs.size() && batch.outputs[*next_output].row == segment.first_row + r) {
      const OutputRow& output = batch.outputs[(*next_output)++];
      Expect(output.position == t + 1, "position of an output");
      result->outputs.push_back(Output(v, poisoned, output.position, output.sampled_before, output.target,
                                       output.params, output.counts));
    }
  }
}

}  // namespace sessa::toy
