#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/proto_time.h"
#include "client/text.h"
#include "loadtest/plot.h"
#include "loadtest/report.h"

namespace sessa {
namespace {

constexpr char kStyle[] = R"(
:root { color-scheme: light dark; --page: #fbfbf9; --card: #ffffff; --ink: #1c2326; --soft: #5f6b70;
  --grid: #e3e6e4; --shade: #f0efe9; --s0: #0b6e69; --s1: #c2571a; --s2: #5a4fcf; --s3: #9a7b00; }
@media (prefers-color-scheme: dark) { :root { --page: #14181a; --card: #1c2124; --ink: #e6eaea; --soft: #98a4a8;
  --grid: #31393c; --shade: #23292c; --s0: #4fc3ba; --s1: #f0935a; --s2: #a79bff; --s3: #e0c050; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 24px 48px; max-width: 1240px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 16px; margin: 30px 0 10px; }
p { margin: 2px 0; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 20px 0; }
.card, figure, table { background: var(--card); border: 1px solid var(--grid); border-radius: 8px; }
.card { padding: 10px 14px; } .card b { display: block; font-size: 23px; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
@media (max-width: 640px) { .cards { grid-template-columns: repeat(2, 1fr); } }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); gap: 14px; }
figure { margin: 0; padding: 12px 12px 6px; } figcaption { font-weight: 600; margin: 0 0 6px 4px; }
.key { font-weight: 400; color: var(--soft); margin-left: 14px; font-size: 13px; white-space: nowrap; }
.key i { display: inline-block; width: 12px; height: 3px; margin-right: 5px; vertical-align: 4px; }
svg { width: 100%; display: block; } svg text { fill: var(--soft); font-size: 14px; }
svg .label { fill: var(--ink); } .grid { stroke: var(--grid); } .shade { fill: var(--shade); }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .dots circle { opacity: .55; }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); } .line.s2 { stroke: var(--s2); }
.line.s3 { stroke: var(--s3); } .dots.s0 { fill: var(--s0); } .dots.s1 { fill: var(--s1); }
i.s0 { background: var(--s0); } i.s1 { background: var(--s1); } i.s2 { background: var(--s2); }
i.s3 { background: var(--s3); }
table { border-collapse: separate; border-spacing: 0; padding: 6px 4px; font-variant-numeric: tabular-nums; }
td, th { padding: 4px 12px; text-align: right; font-weight: 400; } th { color: var(--soft); }
td:first-child, th:first-child { text-align: left; } .scroll { overflow-x: auto; }
)";

std::string Ms(double seconds) { return absl::StrFormat("%.*f ms", seconds < 0.1 ? 2 : 0, seconds * 1e3); }

std::string Card(const std::string& value, const std::string& name) {
  return absl::StrCat("<div class=\"card\"><b>", HtmlText(value), "</b><span>", HtmlText(name),
                      "</span></div>\n");
}

std::string Cards(const Result& r) {
  return absl::StrCat("<div class=\"cards\">\n",
                      Card(FormatCount(r.PerSecond(r.generated_tokens)), "generated tokens/s"),
                      Card(FormatCount(r.PerSecond(r.prompt_tokens)), "prompt tokens/s"),
                      Card(absl::StrFormat("%.1f", r.PerSecond(r.turns)), "turns/s"),
                      Card(Ms(r.first_token.Percentile(0.5)), "to the first token, median"),
                      Card(Ms(r.first_token.Percentile(0.99)), "to the first token, p99"),
                      Card(Ms(r.gap.Percentile(0.5)), "between tokens, median"),
                      Card(Ms(r.gap.Percentile(0.99)), "between tokens, p99"),
                      Card(absl::StrCat(r.failed_turns, " of ", r.turns), "turns failed"), "</div>\n");
}

using Points = std::vector<std::pair<double, double>>;

// A series' steps as (seconds, count a second). The last step is left out: the run ended somewhere within it.
template <typename Count>
Points PerSecond(const Result& r, Count count) {
  Points points;
  for (size_t i = 0; i + 1 < r.steps.size(); ++i) {
    points.emplace_back((i + 0.5) * r.step_seconds, static_cast<double>(count(r.steps[i])) / r.step_seconds);
  }
  return points;
}

Points InFlight(const Result& r) {
  Points points = {{0, 0}};
  double now = 0;
  for (size_t i = 0; i < r.steps.size(); ++i) {
    now += static_cast<double>(r.steps[i].started) - static_cast<double>(r.steps[i].ended);
    points.emplace_back((i + 1) * r.step_seconds, now);
  }
  return points;
}

template <typename Value>
Points FromServer(const Result& r, Value value) {
  Points points;
  for (const auto& point : r.server_points) points.emplace_back(point.at, value(point.status));
  return points;
}

PlotAxis TimeAxis(const Result& r) {
  return {.label = "time since the start, s", .high = std::max<double>(1, r.steps.size()) * r.step_seconds};
}

std::string ThroughputPlots(const Result& r) {
  const auto generated = PerSecond(r, [](const Recorder::Step& s) { return s.generated_tokens; });
  const auto prompt = PerSecond(r, [](const Recorder::Step& s) { return s.prompt_tokens; });
  std::string html = PlotHtml({.title = "Generated tokens",
                               .x = TimeAxis(r),
                               .y = {.label = "tokens/s"},
                               .series = {{"generated", generated}},
                               .shaded_to = r.warm_up_seconds});
  return html + PlotHtml({.title = "Prompt tokens",
                          .x = TimeAxis(r),
                          .y = {.label = "tokens/s"},
                          .series = {{"prompt", prompt}},
                          .shaded_to = r.warm_up_seconds});
}

std::string LatencyPlots(const Result& r) {
  std::string html = PlotHtml(
      {.title = "Latencies",
       .x = {.label = "latency (logarithmic)", .kind = PlotAxis::Kind::kSeconds, .logarithmic = true},
       .y = {.label = "share of them up to that", .kind = PlotAxis::Kind::kShare, .low = 0, .high = 1},
       .series = {{"first token", r.first_token.Cumulative()},
                  {"between tokens", r.gap.Cumulative()},
                  {"whole turn", r.whole.Cumulative()}}});
  Points dots;
  for (const Recorder::Point& point : r.points) dots.emplace_back(point.at, point.seconds);
  return html + PlotHtml({.title = "Time to the first token, by when the turn was due",
                          .x = TimeAxis(r),
                          .y = {.label = "first token (logarithmic)",
                                .kind = PlotAxis::Kind::kSeconds,
                                .logarithmic = true},
                          .series = {{"turns", dots, true}},
                          .shaded_to = r.warm_up_seconds});
}

std::string LoadPlots(const Result& r) {
  std::vector<PlotSeries> turns = {{"in flight", InFlight(r)}};
  if (!r.server_points.empty()) {
    turns.push_back(
        {"running on the server", FromServer(r, [](const auto& s) { return s.queue().running(); })});
    turns.push_back({"waiting there", FromServer(r, [](const auto& s) { return s.queue().waiting(); })});
  }
  std::string html = PlotHtml({.title = "Turns",
                               .x = TimeAxis(r),
                               .y = {.label = "turns"},
                               .series = turns,
                               .shaded_to = r.warm_up_seconds});
  if (!r.server_points.empty()) {
    absl::StrAppend(
        &html,
        PlotHtml({.title = "Server",
                  .x = TimeAxis(r),
                  .y = {.label = "share", .kind = PlotAxis::Kind::kShare, .low = 0, .high = 1},
                  .series = {{"backend busy",
                              FromServer(r, [](const auto& s) { return s.rates().device_share(); })},
                             {"state memory used", FromServer(r,
                                                              [](const auto& s) {
                                                                const auto& state = s.state();
                                                                return state.pages_total() == 0
                                                                           ? 0.0
                                                                           : 1 - static_cast<double>(
                                                                                     state.pages_free()) /
                                                                                     state.pages_total();
                                                              })}},
                  .shaded_to = r.warm_up_seconds}));
  }
  if (r.failed_turns > 0) {
    const auto failed = PerSecond(r, [](const Recorder::Step& s) { return s.failed; });
    absl::StrAppend(&html, PlotHtml({.title = "Failed turns",
                                     .x = TimeAxis(r),
                                     .y = {.label = "turns/s"},
                                     .series = {{"failed", failed}},
                                     .shaded_to = r.warm_up_seconds}));
  }
  return html;
}

std::string LatencyRow(const char* name, const Histogram& h) {
  std::string row = absl::StrCat("<tr><td>", name, "</td>");
  for (double share : {0.5, 0.9, 0.95, 0.99, 0.999}) {
    absl::StrAppendFormat(&row, "<td>%.3f</td>", 1e3 * h.Percentile(share));
  }
  return row + absl::StrFormat("<td>%.3f</td><td>%.3f</td><td>%d</td></tr>\n", 1e3 * h.max(), 1e3 * h.mean(),
                               h.count());
}

std::string LatencyTable(const Result& r) {
  return absl::StrCat(
      "<h2>Latency, milliseconds</h2><div "
      "class=\"scroll\"><table><tr><th></th><th>p50</th><th>p90</th><th>p95</th>"
      "<th>p99</th><th>p99.9</th><th>max</th><th>mean</th><th>count</th></tr>\n",
      LatencyRow("time to first token", r.first_token), LatencyRow("gap between tokens", r.gap),
      LatencyRow("whole turn", r.whole), LatencyRow("sessaload started late by", r.late), "</table></div>\n");
}

std::string Row(const std::string& name, const std::string& value) {
  return absl::StrCat("<tr><td>", HtmlText(name), "</td><td>", HtmlText(value), "</td></tr>\n");
}

std::string CountTables(const Result& r) {
  std::string html = "<h2>How turns ended</h2><table>\n";
  for (const auto& [name, count] : r.outcomes) absl::StrAppend(&html, Row(name, absl::StrCat(count)));
  for (const auto& [name, count] : r.finish_reasons) absl::StrAppend(&html, Row(name, absl::StrCat(count)));
  absl::StrAppend(&html, "</table>\n<h2>Cost</h2><table>\n");
  const double tokens = std::max<double>(r.generated_tokens, 1);
  absl::StrAppend(&html, Row("sessaload's own CPU",
                             absl::StrFormat("%.2f cores, %.1f us a generated token",
                                             r.client_cpu_seconds / std::max(r.measured_seconds, 1e-9),
                                             1e6 * r.client_cpu_seconds / tokens)));
  if (const auto& f = r.server_figures) {
    const double seconds = std::max(f->seconds, 1e-9), steps = std::max<double>(f->steps, 1);
    const double generated = std::max<double>(f->generated_tokens, 1);
    absl::StrAppend(
        &html,
        Row("server CPU",
            absl::StrFormat("%.2f cores, %.1f us a generated token, %.1f of them outside the ops",
                            f->cpu_seconds / seconds, 1e6 * f->cpu_seconds / generated,
                            1e6 * (f->cpu_seconds - f->ops_cpu_seconds) / generated)),
        Row("server memory, resident", FormatBytes(f->resident_bytes)),
        Row("steps", absl::StrFormat("%d, %.3f ms mean, %.1f tokens generated each", f->steps,
                                     1e3 * f->step_seconds / steps, f->generated_tokens / steps)),
        Row("backend busy", absl::StrFormat("%.1f %% of the time", 100 * f->device_seconds / seconds)),
        Row("tokens from kept state, recomputed", absl::StrCat(f->cached_tokens, ", ", f->recomputed_tokens)),
        Row("preemptions, evictions", absl::StrCat(f->preemptions, ", ", f->state_evictions)));
  }
  return html + "</table>\n";
}

}  // namespace

std::string HtmlReport(const Result& r) {
  const std::string title =
      r.scenario_name.empty() ? "sessaload" : absl::StrCat("sessaload: ", r.scenario_name);
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
      HtmlText(title), "</title>\n<style>", kStyle, "</style></head><body>\n<h1>", HtmlText(title),
      "</h1>\n<p>", HtmlText(r.scenario), "</p>\n<p>",
      HtmlText(absl::StrCat(r.model.name(), ", ", FormatCount(static_cast<double>(r.model.parameters())),
                            " parameters, on ", r.model.backend_description(), "; state ",
                            r.model.state_dtype(), "; sessad ", r.model.server_version())),
      "</p>\n<p>",
      HtmlText(absl::StrFormat(
          "%.1f s measured after %.1f s of warm-up (shaded), %s; client threads %d, connections %d",
          r.measured_seconds, r.warm_up_seconds,
          absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", r.start, absl::UTCTimeZone()), r.threads, r.channels)),
      "</p>\n", Cards(r), "<div class=\"plots\">\n", ThroughputPlots(r), LatencyPlots(r), LoadPlots(r),
      "</div>\n", LatencyTable(r), CountTables(r), "</body></html>\n");
}

}  // namespace sessa
