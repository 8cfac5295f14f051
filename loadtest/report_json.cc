#include <nlohmann/json.hpp>

#include "client/json.h"
#include "loadtest/report.h"

namespace sessa {
namespace {

using Json = nlohmann::ordered_json;

Json Latency(const Histogram& h) {
  return {{"count", h.count()},
          {"mean", h.mean()},
          {"min", h.min()},
          {"p50", h.Percentile(0.5)},
          {"p90", h.Percentile(0.9)},
          {"p95", h.Percentile(0.95)},
          {"p99", h.Percentile(0.99)},
          {"p99_9", h.Percentile(0.999)},
          {"max", h.max()}};
}

Json Server(const ServerFigures& f) {
  return {{"seconds", f.seconds},
          {"steps", f.steps},
          {"prompt_tokens", f.prompt_tokens},
          {"cached_tokens", f.cached_tokens},
          {"recomputed_tokens", f.recomputed_tokens},
          {"generated_tokens", f.generated_tokens},
          {"discarded_tokens", f.discarded_tokens},
          {"preemptions", f.preemptions},
          {"state_evictions", f.state_evictions},
          {"step_seconds", f.step_seconds},
          {"device_seconds", f.device_seconds},
          {"cpu_seconds", f.cpu_seconds},
          {"ops_cpu_seconds", f.ops_cpu_seconds},
          {"resident_bytes", f.resident_bytes}};
}

Json Series(const Result& r) {
  Json series = Json::array();
  for (size_t i = 0; i < r.steps.size(); ++i) {
    const Recorder::Step& step = r.steps[i];
    series.push_back({{"second", static_cast<double>(i) * r.step_seconds},
                      {"started", step.started},
                      {"ended", step.ended},
                      {"failed", step.failed},
                      {"prompt_tokens", step.prompt_tokens},
                      {"generated_tokens", step.generated_tokens}});
  }
  return series;
}

}  // namespace

std::string JsonReport(const Result& r) {
  Json json;
  json["scenario"] = {{"name", r.scenario_name}, {"description", r.scenario}};
  json["server_address"] = r.server;
  json["model"] = Json::parse(ToJson(r.model, JsonStyle::kLine), nullptr, /*allow_exceptions=*/false);
  json["start"] = absl::FormatTime(absl::RFC3339_sec, r.start, absl::UTCTimeZone());
  json["warm_up_seconds"] = r.warm_up_seconds;
  json["measured_seconds"] = r.measured_seconds;
  json["turns"] = r.turns;
  json["failed_turns"] = r.failed_turns;
  json["turns_per_second"] = r.PerSecond(r.turns);
  json["prompt_tokens"] = r.prompt_tokens;
  json["generated_tokens"] = r.generated_tokens;
  json["prompt_tokens_per_second"] = r.PerSecond(r.prompt_tokens);
  json["generated_tokens_per_second"] = r.PerSecond(r.generated_tokens);
  json["cached_tokens"] = r.cached_tokens;
  json["recomputed_tokens"] = r.recomputed_tokens;
  json["latency_seconds"] = {{"time_to_first_token", Latency(r.first_token)},
                             {"inter_token", Latency(r.gap)},
                             {"end_to_end", Latency(r.whole)},
                             {"started_late", Latency(r.late)}};
  json["outcomes"] = r.outcomes;
  json["finish_reasons"] = r.finish_reasons;
  json["client"] = {{"cpu_seconds", r.client_cpu_seconds}, {"threads", r.threads}, {"channels", r.channels}};
  json["server"] = r.server_figures ? Server(*r.server_figures) : Json();
  json["series"] = Series(r);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace sessa
