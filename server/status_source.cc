#include "server/status_source.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/process_stats.h"
#include "server/response_builder.h"

namespace sessa {
namespace {

constexpr absl::Duration kRateWindow = absl::Seconds(1);

void FillState(const CoreStatus& core, const v1::Model& model, v1::ServerStatus::State* out) {
  out->set_sessions(core.sessions);
  out->set_sessions_with_state(core.sessions_with_state);
  out->set_pages_total(core.pages_total);
  out->set_pages_free(core.pages_free);
  out->set_open_pages_total(core.open_pages_total);
  out->set_open_pages_free(core.open_pages_free);
  out->set_orphan_pages(core.orphan_pages);
  out->set_page_bytes(model.state_bytes_per_page());
}

void FillBatch(const StatusSource::Mark& now, v1::ServerStatus::Batch* out) {
  const StepReport& last = now.steps.last;
  const bool busy = now.core.running > 0;  // the latest step of an idle engine says nothing about this moment
  out->set_decode_rows(busy ? last.decode_rows : 0);
  out->set_prefill_rows(busy ? last.prefill_rows : 0);
  out->set_segments(busy ? last.segments : 0);
  *out->mutable_step_duration() = ToProto(last.total);
  *out->mutable_device_duration() = ToProto(last.device);
  *out->mutable_step_age() = ToProto(now.core.step_age);
}

void FillRates(const StatusSource::Mark& now, const StatusSource::Mark& since, v1::ServerStatus::Rates* out) {
  const double seconds = absl::ToDoubleSeconds(now.time - since.time);
  if (seconds <= 0) return;
  const auto rate = [&](uint64_t CoreStatus::*count) {
    return static_cast<double>(now.core.*count - since.core.*count) / seconds;
  };
  out->set_generated_tokens_per_second(rate(&CoreStatus::generated_tokens));
  out->set_prompt_tokens_per_second(rate(&CoreStatus::prompt_tokens));
  out->set_steps_per_second(rate(&CoreStatus::steps));
  const uint64_t steps = now.core.steps - since.core.steps;
  if (steps > 0) {
    *out->mutable_mean_step_duration() =
        ToProto((now.steps.step_time - since.steps.step_time) / static_cast<int64_t>(steps));
  }
  const double device = absl::ToDoubleSeconds(now.steps.device_time - since.steps.device_time);
  out->set_device_share(std::min(1.0, device / seconds));
}

void FillTotals(const StatusSource::Mark& now, v1::ServerStatus::Totals* out) {
  const CoreStatus& core = now.core;
  out->set_steps(core.steps);
  out->set_prompt_tokens(core.prompt_tokens);
  out->set_cached_tokens(core.cached_tokens);
  out->set_recomputed_tokens(core.recomputed_tokens);
  out->set_generated_tokens(core.generated_tokens);
  out->set_state_evictions(core.state_evictions);
  out->set_preemptions(core.preemptions);
  out->set_discarded_tokens(core.discarded_tokens);
  out->set_state_saturations(core.state_saturations);
  out->set_nonfinite_rows(core.nonfinite_rows);
  *out->mutable_step_time() = ToProto(now.steps.step_time);
  *out->mutable_device_time() = ToProto(now.steps.device_time);
  *out->mutable_ops_cpu_time() = ToProto(now.steps.ops_cpu_time);
}

void FillProcess(v1::ServerStatus::Process* out) {
  const ProcessStats stats = ReadProcessStats();
  *out->mutable_cpu_time() = ToProto(stats.cpu_time);
  out->set_resident_bytes(stats.resident_bytes);
  out->set_open_files(stats.open_files);
}

}  // namespace

void StepTotals::Add(const StepReport& report) {
  MutexLock lock(&mutex_);
  values_.step_time += report.total;
  values_.device_time += report.device;
  values_.ops_cpu_time += report.ops_cpu;
  values_.last = report;
}

StepTotals::Values StepTotals::Get() const {
  MutexLock lock(&mutex_);
  return values_;
}

StatusSource::StatusSource(const Core* core, const StepTotals* steps, Facts facts)
    : core_(core), steps_(steps), facts_(std::move(facts)) {
  Tick();
}

StatusSource::Mark StatusSource::Now() const { return {absl::Now(), core_->Status(), steps_->Get()}; }

void StatusSource::Tick() {
  Mark mark = Now();
  MutexLock lock(&mutex_);
  // The oldest mark is the youngest one that is at least a window old.
  while (marks_.size() > 1 && mark.time - marks_[1].time >= kRateWindow) marks_.pop_front();
  marks_.push_back(std::move(mark));
}

v1::ServerStatus StatusSource::Describe(const Mark& now, const Mark& since) const {
  v1::ServerStatus out;
  *out.mutable_time() = ToProto(now.time);
  *out.mutable_start_time() = ToProto(ProcessStartTime());
  out.set_not_serving_reason(NotServingReason(now.core, facts_.stall_timeout));
  out.set_serving(out.not_serving_reason().empty());
  out.set_server_version(facts_.model.server_version());
  out.set_model_name(facts_.model.name());
  out.set_backend(facts_.model.backend());
  out.mutable_queue()->set_running(now.core.running);
  out.mutable_queue()->set_waiting(now.core.waiting);
  out.mutable_queue()->set_max_waiting(facts_.max_waiting);
  FillBatch(now, out.mutable_batch());
  FillState(now.core, facts_.model, out.mutable_state());
  FillRates(now, since, out.mutable_rates());
  FillTotals(now, out.mutable_totals());
  FillProcess(out.mutable_process());
  return out;
}

v1::ServerStatus StatusSource::Since(const Mark& since) const { return Describe(Now(), since); }

v1::ServerStatus StatusSource::Latest() const {
  Mark oldest;
  {
    MutexLock lock(&mutex_);
    oldest = marks_.front();
  }
  return Describe(Now(), oldest);
}

std::string StatusSource::NotServingReason(const CoreStatus& status, absl::Duration stall_timeout) {
  if (!status.serving) return status.not_serving_reason.empty() ? "not serving" : status.not_serving_reason;
  // No age is counted while there is nothing to do. What there is to do the snapshot may not know yet: it is
  // taken at the end of a step.
  if (status.step_age > stall_timeout) {
    return absl::StrCat("the engine stands still: no step for ", absl::FormatDuration(status.step_age));
  }
  return "";
}

}  // namespace sessa
