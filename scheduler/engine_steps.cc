// A step: launch, collect, publish.
#include <algorithm>
#include <cassert>

#include "runtime/base/errors.h"
#include "runtime/step_batch_builder.h"
#include "scheduler/engine.h"

namespace sessa {

bool Engine::LaunchStep(absl::Time now) {
  if (turns_.empty()) return false;
  FillPlanInput(now);
  Plan(plan_input_, &plan_);
  ApplyPlan();
  if (plan_.work.empty()) {
    return !plan_.close.empty() || !plan_.evict.empty() || !plan_.park.empty() || !plan_.drop.empty() ||
           !plan_.admit.empty();
  }

  std::unique_ptr<LaunchedStep> step;
  if (spare_steps_.empty()) {
    step = std::make_unique<LaunchedStep>();
  } else {
    step = std::move(spare_steps_.back());
    spare_steps_.pop_back();
  }
  step->launched = now;
  BuildBatch(step.get());
  for (const PageCopy& copy : copies_) {
    if (copy.kind == PageKind::kState) {
      model_.ops().CopyPage(copy.from, copy.to);
    } else {
      model_.ops().CopyOpenPage(copy.from, copy.to);
    }
  }
  copies_.clear();
  model_.Launch(step->batch);
  for (LaunchedWork& work : step->work) {
    work.sample->sequence->table.Commit(work.start + work.rows);
    if (!work.turn->samples.back().ready && work.start + work.rows >= ForkPoint(work.turn.get())) {
      MakeForks(work.turn.get());
    }
  }
  launched_.push_back(std::move(step));
  principals_.UpdateFloor();
  return true;
}

void Engine::BuildBatch(LaunchedStep* step) {
  StepBatchBuilder builder(&step->batch);
  step->work.clear();
  for (const auto [index, rows] : plan_.work) {
    const auto [turn, sample] = candidates_[index];
    Sequence& sequence = *sample->sequence;
    LaunchedWork work;
    work.turn = turns_.find(turn->id)->second;
    work.sample = sample;
    work.start = sequence.computed();
    work.rows = rows;
    const int64_t end = work.start + rows;
    const bool fits = sequence.table.EnsureCapacity(end, &arena_, &copies_);
    assert(fits);
    (void)fits;

    const int64_t lost = std::min(end, sequence.lost_until) - work.start;
    if (lost > 0) {
      turn->recomputed_tokens += lost;
      totals_.recomputed_tokens += lost;
    }
    principals_.Serve(turn->principal, rows);
    outputs_.clear();
    AddOutputs(turn, sample, work.start, rows, &work, &outputs_);
    if (work.start >= sequence.size()) {  // run ahead: the device knows the token, we do not yet
      const int32_t unknown = 0;
      builder.Append({&unknown, 1}, work.start, sequence.table, outputs_, sample->slot);
    } else {
      builder.Append({sequence.tokens.data() + work.start, static_cast<size_t>(rows)}, work.start,
                     sequence.table, outputs_);
    }
    sample->in_flight += work.samples;
    step->work.push_back(std::move(work));
  }
}

void Engine::AddOutputs(Turn* turn, Sample* sample, int64_t start, int32_t rows, LaunchedWork* work,
                        std::vector<OutputRow>* outputs) {
  const int64_t end = start + rows;
  Sequence& sequence = *sample->sequence;
  if (turn->request->prompt_logprobs >= 0 && sample->index == 0) {
    for (int64_t target = std::max(turn->scored_until, start + 1); target <= end && target < turn->prompt_end;
         ++target) {
      OutputRow row;
      row.row = static_cast<int32_t>(target - 1 - start);
      row.position = target;
      row.target = sequence.tokens[target];
      row.params = &turn->prompt_params;
      outputs->push_back(row);
      ++work->scored;
    }
    if (work->scored > 0) turn->scored_until = std::min(end + 1, turn->prompt_end);
  }
  if (end < sequence.size() + sample->in_flight) return;  // more of the prompt to come
  work->samples = turn->samples_tokens() && end < context_limit_;
  work->ends = !work->samples;
  if (!work->samples) return;
  OutputRow row;
  row.row = rows - 1;
  row.position = end;
  row.slot = sample->slot;
  row.sampled_before = sample->generated + sample->in_flight;
  row.params = &sample->params;
  row.counts = sample->uses_counts ? &sample->counts : nullptr;
  outputs->push_back(row);
}

void Engine::CollectStep() {
  absl::StatusOr<StepResult> result = model_.Collect();
  if (!result.ok()) return DeviceFailed(result.status());
  std::unique_ptr<LaunchedStep> step = std::move(launched_.front());
  launched_.pop_front();
  const absl::Time now = clock_->Now();
  ++totals_.steps;
  totals_.state_saturations += result->state_saturations;
  Publish(*step, *result, now);
  StepReport report;
  PrefillChunk chunk;
  for (const Segment& segment : step->batch.segments) {
    if (segment.rows == 1) {
      ++report.decode_rows;
    } else {
      chunk.Add(segment.start, segment.rows);
    }
  }
  report.prefill_rows = chunk.rows;
  governor_.Observe(report.decode_rows, chunk, result->device_seconds + result->host_seconds);
  if (hooks_->on_step) {
    report.segments = static_cast<int32_t>(step->batch.segments.size());
    report.total = now - step->launched;
    report.device = absl::Seconds(result->device_seconds);
    report.ops_cpu = absl::Seconds(result->cpu_seconds);
    hooks_->on_step(report);
  }
  step->work.clear();
  spare_steps_.push_back(std::move(step));
}

void Engine::Publish(LaunchedStep& step, StepResult& result, absl::Time now) {
  size_t next = 0;
  for (LaunchedWork& work : step.work) {
    Turn* turn = work.turn.get();
    Sample* sample = work.sample;
    const auto scored = absl::MakeSpan(result.outputs).subspan(next, work.scored);
    OutputResult* sampled = work.samples ? &result.outputs[next + work.scored] : nullptr;
    next += work.scored + work.samples;
    sample->in_flight -= work.samples;
    if (sample->ended) {
      totals_.discarded_tokens += work.samples;
      continue;
    }
    bool finite = sampled == nullptr || sampled->finite;
    for (const OutputResult& score : scored) finite = finite && score.finite;
    if (!finite) {
      NumbersFailed(turn, sample);
      continue;
    }
    if (work.scored > 0) {
      auto event = std::make_unique<PromptLogprobsEvent>();
      event->position = step.batch.outputs[next - work.samples - work.scored].position;
      event->tokens.assign(std::make_move_iterator(scored.begin()), std::make_move_iterator(scored.end()));
      Emit(turn, std::move(event));
    }
    const int64_t end = work.start + work.rows;
    if (sample->index == 0 && sample->generated == 0 && end < turn->prompt_end && work.rows > 1) {
      Emit(turn, ProgressEvent{end - turn->prefill_from, turn->prompt_end - turn->prefill_from});
    }
    if (sampled != nullptr) {
      AppendSampled(turn, sample, *sampled, now);
    } else if (work.ends) {
      EndSample(turn, sample, turn->samples_tokens() ? FinishReason::kContextFull : FinishReason::kLength);
    }
  }
}

void Engine::AppendSampled(Turn* turn, Sample* sample, OutputResult& result, absl::Time now) {
  if (turn->first_token == absl::InfiniteFuture()) turn->first_token = now;
  const int32_t token = result.token;
  const std::vector<int32_t>& enders = sample->params.enders;
  if (std::find(enders.begin(), enders.end(), token) != enders.end()) {
    sample->stop_token = token;
    const std::vector<int32_t>& stops = turn->request->stop_token_ids;
    const bool is_stop = std::find(stops.begin(), stops.end(), token) != stops.end();
    return EndSample(turn, sample, is_stop ? FinishReason::kStop : FinishReason::kEos);
  }
  Sequence& sequence = *sample->sequence;
  const int64_t position = sequence.size();
  sequence.tokens.push_back(token);
  if (sample->uses_counts) ++sample->counts[token];
  ++sample->generated;
  Emit(turn, TokenOutput{sample->index, position, std::move(result)});
  if (sample->generated >= turn->request->max_tokens) {
    EndSample(turn, sample, FinishReason::kLength);
  } else if (sequence.size() >= context_limit_) {
    EndSample(turn, sample, FinishReason::kContextFull);
  }
}

// A logit of this sample was not a number: its turn ends, and state that may be spoilt is given up.
void Engine::NumbersFailed(Turn* turn, Sample* sample) {
  ++totals_.nonfinite_rows;
  sample->error = MakeError(absl::StatusCode::kInternal, "the model gave numbers that are not finite",
                            {.reason = "NONFINITE_LOGITS"});
  sample->sequence->DropState(&arena_);
  EndTurn(turn, FinishReason::kError);
}

void Engine::DeviceFailed(const absl::Status& error) {
  failure_ = error;
  launched_.clear();
  const absl::Status told =
      MakeError(absl::StatusCode::kUnavailable, "the device failed", {.reason = "DEVICE_FAILED"});
  std::vector<Turn*> all;
  for (const auto& [id, turn] : turns_) all.push_back(turn.get());
  for (Turn* turn : all) {
    if (turn->phase != TurnPhase::kRunning) {
      FailTurn(turn, told);
      continue;
    }
    for (Sample& sample :
         turn->samples) {  // where there are stop strings, the text has the last word even now
      if (sample.ended) continue;
      sample.error = told;
      EndSample(turn, &sample, FinishReason::kError);
    }
  }
  sessions_.ForEach([this](Session* session) {
    session->sequence.DropState(&arena_);
    sessions_.StateDropped(session);
  });
  if (hooks_->on_fatal) hooks_->on_fatal(error);
}

}  // namespace sessa
