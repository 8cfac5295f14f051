#include "loadtest/scenario.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sessa {

absl::Status Scenario::Validate() const {
  const auto invalid = [](absl::string_view text) { return absl::InvalidArgumentError(text); };
  if ((concurrency > 0) == (rate > 0)) return invalid("give one of --concurrency and --rate, above 0");
  if (concurrency < 0 || concurrency > 100000) return invalid("--concurrency: at most 100000");
  if (!(rate >= 0 && rate <= 1e6)) return invalid("--rate: at most 1000000 a second");
  if (turns.max() < 1) return invalid("--turns: at least 1");
  if (duration <= absl::ZeroDuration() && max_turns <= 0) return invalid("give --duration or --max_turns");
  if (warm_up < absl::ZeroDuration() || ramp < absl::ZeroDuration() || grace < absl::ZeroDuration()) {
    return invalid("--warm_up, --ramp and --grace: at least 0");
  }
  if (warm_up == absl::InfiniteDuration() || ramp == absl::InfiniteDuration()) {
    return invalid("--warm_up and --ramp: not infinite");
  }
  if (turn_timeout <= absl::ZeroDuration()) return invalid("--turn_timeout: above 0");
  if (!(cancel_fraction >= 0 && cancel_fraction <= 1)) return invalid("--cancel_fraction: in [0, 1]");
  if (threads < 1 || threads > 64) return invalid("--threads: in [1, 64]");
  if (channels < 1 || channels > 1024) return invalid("--channels: in [1, 1024]");
  if (!open_loop() && threads > concurrency) return invalid("--threads: at most --concurrency");
  if (text_prompts && texts.empty()) return invalid("--prompt_file: no text in it");
  return absl::OkStatus();
}

std::string Scenario::Describe() const {
  std::string text = open_loop() ? absl::StrFormat("open loop, %g sessions/s (Poisson)", rate)
                                 : absl::StrFormat("closed loop, %d users", concurrency);
  absl::StrAppend(&text, "; turns ", turns.text(), ", think time ", think_time.text(), " s; prompt ",
                  prompt_tokens.text(), " tokens (", text_prompts ? "text" : "random ids", "), generated ",
                  generated_tokens.text());
  if (cancel_fraction > 0) absl::StrAppendFormat(&text, "; %g %% cancelled", 100 * cancel_fraction);
  return text;
}

}  // namespace sessa
