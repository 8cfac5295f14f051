#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/text.h"
#include "loadtest/report.h"

namespace sessa {
namespace {

std::string Milliseconds(double seconds) { return absl::StrFormat("%10.3f", seconds * 1e3); }

std::string LatencyRow(const char* name, const Histogram& h) {
  std::string row = absl::StrFormat("%-26s", name);
  for (double share : {0.5, 0.9, 0.95, 0.99, 0.999}) absl::StrAppend(&row, Milliseconds(h.Percentile(share)));
  return absl::StrCat(row, Milliseconds(h.max()), Milliseconds(h.mean()), absl::StrFormat("%10d", h.count()),
                      "\n");
}

std::string ServerLines(const ServerFigures& f) {
  const double seconds = std::max(f.seconds, 1e-9);
  const double steps = std::max<double>(f.steps, 1), tokens = std::max<double>(f.generated_tokens, 1);
  return absl::StrFormat(
      "server                    %d steps, %.3f ms mean; backend %.1f %% of the wall time, %.1f %% of the "
      "steps\n"
      "                          %.1f tokens generated a step; %d cached, %d recomputed, %d discarded "
      "tokens; "
      "%d preemptions, %d evictions\n"
      "                          CPU %.2f cores, %.1f us a generated token, %.1f of them outside the ops; "
      "%s resident\n",
      f.steps, 1e3 * f.step_seconds / steps, 100 * f.device_seconds / seconds,
      100 * f.device_seconds / std::max(f.step_seconds, 1e-9),
      static_cast<double>(f.generated_tokens) / steps, f.cached_tokens, f.recomputed_tokens,
      f.discarded_tokens, f.preemptions, f.state_evictions, f.cpu_seconds / seconds,
      1e6 * f.cpu_seconds / tokens, 1e6 * (f.cpu_seconds - f.ops_cpu_seconds) / tokens,
      FormatBytes(f.resident_bytes));
}

}  // namespace

std::string TextReport(const Result& r) {
  std::string text =
      absl::StrFormat("%s%s%s\n", r.scenario_name, r.scenario_name.empty() ? "" : ": ", r.scenario);
  absl::StrAppendFormat(&text, "model                     %s on %s, %s\n", r.model.name(),
                        r.model.backend_description(), r.server);
  absl::StrAppendFormat(&text, "measured                  %.1f s after %.1f s of warm-up\n",
                        r.measured_seconds, r.warm_up_seconds);
  absl::StrAppendFormat(&text, "turns                     %d (%.1f/s), %d failed\n", r.turns,
                        r.PerSecond(r.turns), r.failed_turns);
  absl::StrAppendFormat(&text, "generated tokens          %d (%.0f/s)\n", r.generated_tokens,
                        r.PerSecond(r.generated_tokens));
  absl::StrAppendFormat(&text, "prompt tokens             %d (%.0f/s)\n", r.prompt_tokens,
                        r.PerSecond(r.prompt_tokens));
  absl::StrAppendFormat(&text, "\n%-26s%10s%10s%10s%10s%10s%10s%10s%10s\n", "latency, ms", "p50", "p90",
                        "p95", "p99", "p99.9", "max", "mean", "count");
  absl::StrAppend(&text, LatencyRow("time to first token", r.first_token),
                  LatencyRow("gap between tokens", r.gap), LatencyRow("whole turn", r.whole),
                  LatencyRow("sessaload started late by", r.late), "\n");
  for (const auto& [outcome, count] : r.outcomes) absl::StrAppendFormat(&text, "%-26s%d\n", outcome, count);
  for (const auto& [reason, count] : r.finish_reasons)
    absl::StrAppendFormat(&text, "%-26s%d\n", reason, count);
  if (r.server_figures) absl::StrAppend(&text, ServerLines(*r.server_figures));
  const double tokens = std::max<double>(r.generated_tokens, 1);
  absl::StrAppendFormat(
      &text, "sessaload's own CPU       %.2f cores, %.1f us a generated token (threads %d, connections %d)\n",
      r.measured_seconds > 0 ? r.client_cpu_seconds / r.measured_seconds : 0,
      1e6 * r.client_cpu_seconds / tokens, r.threads, r.channels);
  return text;
}

}  // namespace sessa
