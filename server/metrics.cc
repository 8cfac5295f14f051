#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <mutex>

#include "server/process_stats.h"

namespace sessa {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;
using Buckets = Histogram::BucketBoundaries;

// Seconds. A small model answers in well under a millisecond, a long queue takes minutes.
const Buckets kLatency = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                          0.25,   0.5,     1,      2.5,   5,      10,    30,   60,    120,  300};
const Buckets kTokens = {1,   2,    4,    8,    16,   32,    64,    128,   256,
                         512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072};

constexpr int kCodes = 17;  // canonical codes
constexpr int kReasons = 9;

const char* ReasonName(FinishReason reason) {
  static constexpr const char* kNames[kReasons] = {
      "stop", "eos", "length", "context_full", "cancelled", "deadline", "drained", "interrupted", "error"};
  return kNames[static_cast<int>(reason)];
}

Counter& MakeCounter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}
Gauge& MakeGauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}
Histogram& MakeHistogram(prometheus::Registry& registry, const char* name, const char* help,
                         const Buckets& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
}

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

// Brings a counter to a total that somebody else keeps.
void RaiseTo(Counter& counter, double total) {
  if (total > counter.Value()) counter.Increment(total - counter.Value());
}

}  // namespace

struct Metrics::Families {
  prometheus::Registry registry;

  // --- turns ---
  prometheus::Family<Counter>& requests =
      prometheus::BuildCounter()
          .Name("sessa_requests_total")
          .Help("Turns that ended, by gRPC code and, where that is OK, finish reason of the first sample.")
          .Register(registry);
  std::array<Counter*, kCodes> failed{};      // by code; [0] unused
  std::array<Counter*, kReasons> finished{};  // by reason, code OK
  Gauge& running = MakeGauge(registry, "sessa_requests_running", "Turns in the batch.");
  Gauge& waiting = MakeGauge(registry, "sessa_requests_waiting", "Turns that wait for their first step.");
  Gauge& streams = MakeGauge(registry, "sessa_streams_open", "Streaming calls that are open.");
  Counter& slow_readers =
      MakeCounter(registry, "sessa_slow_readers_total", "Streams ended because their client did not read.");
  Histogram& first_token = MakeHistogram(registry, "sessa_time_to_first_token_seconds",
                                         "From the arrival of a turn to its first token.", kLatency);
  Histogram& inter_token = MakeHistogram(registry, "sessa_inter_token_latency_seconds",
                                         "Between two tokens of a sample.", kLatency);
  Histogram& end_to_end = MakeHistogram(registry, "sessa_e2e_request_latency_seconds",
                                        "From the arrival of a turn to its end.", kLatency);
  Histogram& queue_time = MakeHistogram(registry, "sessa_request_queue_time_seconds",
                                        "From the arrival of a turn to its first step.", kLatency);
  Histogram& prefill_time =
      MakeHistogram(registry, "sessa_request_prefill_time_seconds",
                    "From the first step of a turn to its first token or, without one, its end.", kLatency);
  Histogram& decode_time = MakeHistogram(registry, "sessa_request_decode_time_seconds",
                                         "From the first token of a turn to its end.", kLatency);
  Histogram& turn_prompt = MakeHistogram(registry, "sessa_request_prompt_tokens",
                                         "Tokens that a turn appended as its prompt.", kTokens);
  Histogram& turn_generated = MakeHistogram(registry, "sessa_request_generation_tokens",
                                            "Tokens that a turn sampled, all samples together.", kTokens);
  Histogram& cancel_to_free =
      MakeHistogram(registry, "sessa_cancel_to_free_seconds",
                    "From a cancel to the turn's place and pages being free.", kLatency);

  // --- tokens ---
  Counter& prompt_tokens =
      MakeCounter(registry, "sessa_prompt_tokens_total", "Prompt tokens appended to sessions.");
  Counter& cached_tokens = MakeCounter(registry, "sessa_prompt_tokens_cached_total",
                                       "Tokens of sessions and prompts whose state was there already.");
  Counter& recomputed_tokens = MakeCounter(registry, "sessa_prompt_tokens_recomputed_total",
                                           "Tokens of sessions whose state was computed again.");
  Counter& generated_tokens = MakeCounter(registry, "sessa_generation_tokens_total", "Tokens sampled.");
  Counter& discarded_tokens =
      MakeCounter(registry, "sessa_discarded_tokens_total", "Tokens computed beyond a stop and thrown away.");

  prometheus::Family<Counter>& restores = prometheus::BuildCounter()
                                              .Name("sessa_restores_total")
                                              .Help(
                                                  "Turns on an earlier session, by where its state was and "
                                                  "how much of it had to be computed again.")
                                              .Register(registry);
  Counter& restored_whole = restores.Add({{"tier", "device"}, {"outcome", "restored"}});
  Counter& restored_partly = restores.Add({{"tier", "device"}, {"outcome", "partly_recomputed"}});
  Counter& recomputed = restores.Add({{"tier", "tokens"}, {"outcome", "recomputed"}});

  // --- engine ---
  Counter& steps = MakeCounter(registry, "sessa_steps_total", "Steps of the engine.");
  Gauge& step_age =
      MakeGauge(registry, "sessa_engine_step_age_seconds",
                "Since the engine finished a step or found nothing to do. Grows when it hangs.");
  prometheus::Family<Histogram>& step_duration =
      prometheus::BuildHistogram()
          .Name("sessa_step_duration_seconds")
          .Help("Time of a step, whole and of the device within it.")
          .Register(registry);
  Histogram& step_whole = step_duration.Add({{"phase", "step"}}, kLatency);
  Histogram& step_device = step_duration.Add({{"phase", "device"}}, kLatency);
  Counter& ops_cpu = MakeCounter(registry, "sessa_ops_cpu_seconds_total",
                                 "CPU time of the backend's work, all threads. What is left of "
                                 "process_cpu_seconds_total is the cost of serving.");
  Histogram& step_tokens = MakeHistogram(registry, "sessa_step_batch_tokens",
                                         "Rows of a step: decoding tokens and prompt tokens.", kTokens);
  Counter& preemptions =
      MakeCounter(registry, "sessa_preemptions_total", "Running turns whose pages were taken for others.");
  Counter& evictions =
      MakeCounter(registry, "sessa_state_evictions_total", "Idle sessions whose pages were taken back.");
  Counter& saturations = MakeCounter(registry, "sessa_state_saturations_total",
                                     "Numbers of the compact state that hit the range of fp16.");
  Counter& nonfinite = MakeCounter(registry, "sessa_nonfinite_rows_total",
                                   "Rows of logits with NaN or infinity; each failed its turn.");

  // --- state memory ---
  prometheus::Family<Gauge>& pages = prometheus::BuildGauge()
                                         .Name("sessa_state_pages")
                                         .Help("Pages of recurrent state in use.")
                                         .Register(registry);
  prometheus::Family<Gauge>& pages_capacity = prometheus::BuildGauge()
                                                  .Name("sessa_state_pages_capacity")
                                                  .Help("Pages of recurrent state that there are.")
                                                  .Register(registry);
  const Labels state_page = {{"tier", "device"}, {"kind", "state"}},
               open_page = {{"tier", "device"}, {"kind", "open"}};
  Gauge& state_used = pages.Add(state_page);
  Gauge& open_used = pages.Add(open_page);
  Gauge& state_total = pages_capacity.Add(state_page);
  Gauge& open_total = pages_capacity.Add(open_page);
  Gauge& usage_ratio =
      MakeGauge(registry, "sessa_state_usage_ratio", "Share of the state pages in use, 0 to 1.");
  Gauge& orphans = MakeGauge(registry, "sessa_orphan_pages", "Pages in use that nobody owns: must be 0.");
  prometheus::Family<Gauge>& sessions =
      prometheus::BuildGauge()
          .Name("sessa_sessions")
          .Help("Kept sessions, by where their state is; tokens: only their token ids.")
          .Register(registry);
  Gauge& sessions_device = sessions.Add({{"tier", "device"}});
  Gauge& sessions_tokens = sessions.Add({{"tier", "tokens"}});

  // --- process ---
  Gauge& serving = MakeGauge(registry, "sessa_serving", "1 while the server takes turns, else 0.");
  Gauge& resident = MakeGauge(registry, "process_resident_memory_bytes", "Resident memory.");
  Gauge& open_files = MakeGauge(registry, "process_open_fds", "Open file descriptors.");
  Gauge& max_files = MakeGauge(registry, "process_max_fds", "Most file descriptors that may be open.");
  Gauge& threads = MakeGauge(registry, "process_threads", "Threads.");
  Gauge& start_time = MakeGauge(registry, "process_start_time_seconds", "Start, in seconds since 1970.");
  Counter& cpu =
      MakeCounter(registry, "process_cpu_seconds_total", "CPU time of all threads, user and system.");

  std::mutex render_mutex;  // one scrape at a time brings the counters up to date
};

Metrics::Metrics() : families_(std::make_unique<Families>()) {
  Families& f = *families_;
  for (int code = 1; code < kCodes; ++code) {
    f.failed[code] = &f.requests.Add(
        {{"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(code))}, {"finish_reason", "none"}});
  }
  for (int reason = 0; reason < kReasons; ++reason) {
    f.finished[reason] =
        &f.requests.Add({{"code", "OK"}, {"finish_reason", ReasonName(static_cast<FinishReason>(reason))}});
  }
  f.start_time.Set(absl::ToDoubleSeconds(ProcessStartTime() - absl::UnixEpoch()));
}

void Metrics::SetBuildInfo(const BuildInfo& build) {
  prometheus::BuildGauge()
      .Name("sessa_build_info")
      .Help("Always 1; the labels say what runs.")
      .Register(families_->registry)
      .Add({{"version", build.version},
            {"commit", build.commit},
            {"backend", build.backend},
            {"model", build.model}})
      .Set(1);
}

Metrics::~Metrics() = default;

void Metrics::OnStep(const StepReport& report) {
  families_->step_whole.Observe(Seconds(report.total));
  families_->step_device.Observe(Seconds(report.device));
  families_->ops_cpu.Increment(Seconds(report.ops_cpu));
  families_->step_tokens.Observe(report.decode_rows + report.prefill_rows);
}

void Metrics::OnTurn(const TurnReport& report) {
  Families& f = *families_;
  f.end_to_end.Observe(Seconds(report.total));
  if (report.code != absl::StatusCode::kOk) {
    OnRefused(report.code);
    return;
  }
  f.finished[static_cast<int>(report.reason)]->Increment();
  if (!report.started) return;  // it was cancelled while it waited: no phase took any time
  f.queue_time.Observe(Seconds(report.finished.queue_time));
  f.prefill_time.Observe(Seconds(report.finished.prefill_time));
  f.turn_prompt.Observe(report.finished.prompt_tokens);
  f.turn_generated.Observe(report.finished.generated_tokens);
  if (report.time_to_first_token == absl::InfiniteDuration()) return;
  f.decode_time.Observe(Seconds(report.finished.decode_time));
  f.first_token.Observe(Seconds(report.time_to_first_token));
}

void Metrics::OnRestore(const Restore& restore) {
  Families& f = *families_;
  if (restore.tier == Restore::Tier::kNone) return;
  const bool nothing_left = restore.tokens_restored == 0;
  Counter& counter = restore.tokens_recomputed == 0 ? f.restored_whole
                     : nothing_left                 ? f.recomputed
                                                    : f.restored_partly;
  counter.Increment();
}

void Metrics::OnInterToken(absl::Duration gap) { families_->inter_token.Observe(Seconds(gap)); }
void Metrics::OnCancelToFree(absl::Duration time) { families_->cancel_to_free.Observe(Seconds(time)); }
void Metrics::OnSlowReader() { families_->slow_readers.Increment(); }
void Metrics::OnStreams(int64_t change) { families_->streams.Increment(static_cast<double>(change)); }

void Metrics::OnRefused(absl::StatusCode code) {
  const int index = static_cast<int>(code);
  Counter* counter = index > 0 && index < kCodes ? families_->failed[index] : nullptr;
  if (counter != nullptr) counter->Increment();
}

std::string Metrics::Render(const CoreStatus& status) {
  Families& f = *families_;
  std::lock_guard<std::mutex> lock(f.render_mutex);
  f.running.Set(status.running);
  f.waiting.Set(status.waiting);
  f.serving.Set(status.serving ? 1 : 0);
  f.step_age.Set(Seconds(status.step_age));
  f.state_used.Set(status.pages_total - status.pages_free);
  f.open_used.Set(status.open_pages_total - status.open_pages_free);
  f.state_total.Set(status.pages_total);
  f.open_total.Set(status.open_pages_total);
  f.usage_ratio.Set(status.pages_total > 0 ? 1.0 - static_cast<double>(status.pages_free) / status.pages_total
                                           : 0.0);
  f.orphans.Set(status.orphan_pages);
  f.sessions_device.Set(status.sessions_with_state);
  f.sessions_tokens.Set(status.sessions - status.sessions_with_state);
  RaiseTo(f.steps, static_cast<double>(status.steps));
  RaiseTo(f.prompt_tokens, static_cast<double>(status.prompt_tokens));
  RaiseTo(f.cached_tokens, static_cast<double>(status.cached_tokens));
  RaiseTo(f.recomputed_tokens, static_cast<double>(status.recomputed_tokens));
  RaiseTo(f.generated_tokens, static_cast<double>(status.generated_tokens));
  RaiseTo(f.discarded_tokens, static_cast<double>(status.discarded_tokens));
  RaiseTo(f.preemptions, static_cast<double>(status.preemptions));
  RaiseTo(f.evictions, static_cast<double>(status.state_evictions));
  RaiseTo(f.saturations, static_cast<double>(status.state_saturations));
  RaiseTo(f.nonfinite, static_cast<double>(status.nonfinite_rows));
  const ProcessStats process = ReadProcessStats();
  f.resident.Set(static_cast<double>(process.resident_bytes));
  f.open_files.Set(static_cast<double>(process.open_files));
  f.max_files.Set(static_cast<double>(process.max_files));
  f.threads.Set(static_cast<double>(process.threads));
  RaiseTo(f.cpu, Seconds(process.cpu_time));
  return prometheus::TextSerializer().Serialize(f.registry.Collect());
}

}  // namespace sessa
