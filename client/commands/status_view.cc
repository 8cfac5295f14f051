#include "client/commands/status_view.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/proto_time.h"
#include "client/text.h"

namespace sessa {
namespace {

constexpr int kGaugeWidth = 30;

double Share(double part, double whole) { return whole > 0 ? part / whole : 0; }

std::string Headline(const v1::ServerStatus& status) {
  const absl::Duration uptime = ToTime(status.time()) - ToTime(status.start_time());
  return absl::StrCat(status.serving() ? "serving" : "NOT SERVING: " + status.not_serving_reason(), "  ",
                      status.model_name(), " on ", status.backend(), "  sessad ", status.server_version(),
                      "  up ", FormatSeconds(absl::Trunc(uptime, absl::Seconds(1))), "\n");
}

std::string StateLine(const v1::ServerStatus::State& state) {
  const int used = state.pages_total() - state.pages_free();
  std::string line = absl::StrFormat(
      "state    %s %s of %s, %d of %d pages\n", Gauge(Share(used, state.pages_total()), kGaugeWidth),
      FormatBytes(used * state.page_bytes()), FormatBytes(state.pages_total() * state.page_bytes()), used,
      state.pages_total());
  absl::StrAppend(&line, "sessions ", state.sessions(), ", ", state.sessions_with_state(), " with state\n");
  if (state.orphan_pages() > 0) absl::StrAppend(&line, "BUG      ", state.orphan_pages(), " orphan pages\n");
  return line;
}

std::string TotalsLine(const v1::ServerStatus::Totals& totals) {
  return absl::StrCat("totals   ", FormatCount(totals.generated_tokens()), " generated, ",
                      FormatCount(totals.prompt_tokens()), " prompt, ", FormatCount(totals.cached_tokens()),
                      " cached, ", FormatCount(totals.recomputed_tokens()), " recomputed, ",
                      FormatCount(totals.steps()), " steps, ", FormatCount(totals.preemptions()),
                      " preemptions, ", FormatCount(totals.state_evictions()), " evictions\n");
}

}  // namespace

std::string Gauge(double share, int width) {
  const int full = std::clamp(static_cast<int>(std::lround(share * width)), 0, width);
  return absl::StrCat("[", std::string(full, '#'), std::string(width - full, '.'), "]");
}

std::string Bars(const std::deque<double>& values) {
  static constexpr const char* kBars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const double largest = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  std::string bars;
  for (double value : values) {
    absl::StrAppend(&bars, kBars[largest > 0 ? std::clamp(static_cast<int>(8 * value / largest), 0, 7) : 0]);
  }
  return bars;
}

std::string StatusScreen(const v1::ServerStatus& status, const std::deque<double>& history) {
  const auto& queue = status.queue();
  const auto& batch = status.batch();
  const auto& rates = status.rates();
  std::string screen = Headline(status);
  absl::StrAppend(&screen, "\nturns    ", queue.running(), " running, ", queue.waiting(), " of ",
                  queue.max_waiting(), " waiting\n");
  absl::StrAppendFormat(&screen, "tokens   %s/s generated, %s/s prompt\n",
                        FormatCount(rates.generated_tokens_per_second()),
                        FormatCount(rates.prompt_tokens_per_second()));
  if (!history.empty()) absl::StrAppend(&screen, "         ", Bars(history), "\n");
  absl::StrAppend(&screen, "batch    ", batch.decode_rows(), " decode rows, ", batch.prefill_rows(),
                  " prefill rows, ", batch.segments(), " sessions\n");
  absl::StrAppendFormat(&screen, "step     %s mean, %s last (device %s), %.1f steps/s, last ended %s ago\n",
                        FormatSeconds(ToDuration(rates.mean_step_duration())),
                        FormatSeconds(ToDuration(batch.step_duration())),
                        FormatSeconds(ToDuration(batch.device_duration())), rates.steps_per_second(),
                        FormatSeconds(ToDuration(batch.step_age())));
  absl::StrAppendFormat(&screen, "device   %s %.0f %% busy\n", Gauge(rates.device_share(), kGaugeWidth),
                        100 * rates.device_share());
  absl::StrAppend(&screen, StateLine(status.state()), TotalsLine(status.totals()));
  absl::StrAppend(&screen, "process  ", FormatSeconds(ToDuration(status.process().cpu_time())), " of CPU, ",
                  FormatBytes(status.process().resident_bytes()), " resident\n");
  return TerminalText(screen);
}

}  // namespace sessa
