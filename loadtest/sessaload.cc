// sessaload: makes load for a sessad and reports what came of it. `sessaload --help` explains the flags;
// loadtest/scenarios/ holds ready ones.
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <map>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/flag_help.h"
#include "client/interrupts.h"
#include "client/rpc_errors.h"
#include "client/text.h"
#include "loadtest/prompts.h"
#include "loadtest/report.h"
#include "loadtest/runner.h"

ABSL_FLAG(std::string, server, "127.0.0.1:50051", "HOST:PORT of the daemon");
ABSL_FLAG(std::string, name, "", "title of the report");
ABSL_FLAG(int32_t, concurrency, 0, "closed loop: so many users, each with one session at a time");
ABSL_FLAG(double, rate, 0, "open loop: sessions a second on average, arriving at random (Poisson)");
ABSL_FLAG(std::string, turns, "1",
          "turns of a session: a distribution; sessions are kept where it can exceed 1");
ABSL_FLAG(std::string, think_time, "0",
          "seconds between a turn's end and the session's next turn: a distribution");
ABSL_FLAG(std::string, prompt_tokens, "128", "tokens of a turn's prompt: a distribution");
ABSL_FLAG(std::string, generated_tokens, "128", "tokens to generate in a turn: a distribution");
ABSL_FLAG(std::string, prompts, "ids",
          "ids: token ids at random; text: sentences at random, of about that length");
ABSL_FLAG(std::string, prompt_file, "",
          "for --prompts=text: sentences to draw from, one a line; empty: built in");
ABSL_FLAG(double, temperature, 1, "of sampling; 0 is greedy");
ABSL_FLAG(bool, ignore_eos, true, "turns have the length asked for, whatever the model says");
ABSL_FLAG(absl::Duration, turn_timeout, absl::InfiniteDuration(), "deadline of a turn");
ABSL_FLAG(double, cancel_fraction, 0,
          "share of the turns that are cancelled after a random number of tokens, in [0, 1]");
ABSL_FLAG(absl::Duration, warm_up, absl::Seconds(2), "turns that begin before are not measured");
ABSL_FLAG(absl::Duration, duration, absl::Seconds(20),
          "how long to make load after the warm-up; 0: until --max_turns; inf: until then or Ctrl-C");
ABSL_FLAG(int64_t, max_turns, 0, "turns to begin at most, warm-up included; 0: no limit");
ABSL_FLAG(absl::Duration, ramp, absl::ZeroDuration(), "closed loop: users start evenly over this time");
ABSL_FLAG(absl::Duration, grace, absl::Seconds(30),
          "how long turns may take to finish after the end; then cancelled");
ABSL_FLAG(int32_t, threads, 1, "event loops; one carries hundreds of streams");
ABSL_FLAG(int32_t, channels, 1, "connections, at least one a thread");
ABSL_FLAG(uint64_t, seed, 1, "of lengths, prompts and arrival times");
ABSL_FLAG(std::string, json, "", "file for the report as JSON; - is standard output, instead of the table");
ABSL_FLAG(std::string, html, "", "file for the report as a page");
ABSL_FLAG(double, max_failed, 1, "exit with 3 if a larger share of the turns failed, in [0, 1]");

namespace sessa {
namespace {

constexpr char kUsage[] =
    "sessaload makes load for a sessad and reports throughput and latency.\n\n"
    "  sessaload --concurrency=8 --duration=30s --html=report.html\n"
    "  sessaload --rate=5 --turns=uniform:1:6 --think_time=exponential:2 "
    "--prompt_tokens=lognormal:200:0.8:1500\n"
    "  sessaload --flagfile=loadtest/scenarios/chat.flags\n\n"
    "Distributions: N, fixed:N, uniform:LOW:HIGH, exponential:MEAN, lognormal:MEDIAN:SIGMA[:MAX].\n"
    "A closed loop (--concurrency) shows what the server can do; an open one (--rate) how long people wait, "
    "since\n"
    "arrivals do not slow down with the server. Latencies count from when a turn should have begun.\n"
    "Ctrl-C ends the load early, as if the duration were over; a second one cancels the turns that run, a "
    "third one\n"
    "leaves without a report.\n"
    "Exit codes: 0 done, 1 usage, 2 the daemon is not reachable, 3 more than --max_failed of the turns "
    "failed,\n"
    "7 a report could not be written.";

std::string Help() {
  std::map<std::string, const absl::CommandLineFlag*> ours;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (absl::EndsWith(flag->Filename(), "loadtest/sessaload.cc")) ours[std::string(name)] = flag;
  }
  std::string help = absl::StrCat(kUsage, "\n\nFlags\n");
  for (const auto& [name, flag] : ours) absl::StrAppend(&help, FlagHelp(name));
  return help + FlagHelp("flagfile");
}

bool Write(const std::string& path, const std::string& report) {
  std::ofstream file(path);
  return bool(file << report << std::flush);
}

absl::Status ParseDistribution(const char* flag, const std::string& text, Distribution* distribution) {
  auto parsed = Distribution::Parse(text);
  if (!parsed.ok())
    return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", parsed.status().message()));
  *distribution = *std::move(parsed);
  return absl::OkStatus();
}

absl::Status ReadSentences(Scenario* scenario) {
  scenario->text_prompts = absl::GetFlag(FLAGS_prompts) == "text";
  if (!scenario->text_prompts && absl::GetFlag(FLAGS_prompts) != "ids") {
    return absl::InvalidArgumentError("--prompts: ids or text");
  }
  const std::string path = absl::GetFlag(FLAGS_prompt_file);
  if (path.empty()) {
    scenario->texts = BuiltInSentences();
    return absl::OkStatus();
  }
  std::ifstream file(path);
  if (!file) return absl::InvalidArgumentError(absl::StrCat("--prompt_file: cannot read ", path));
  for (std::string line; std::getline(file, line);) {
    if (const size_t at = FindNonUtf8(line); at != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("--prompt_file: not UTF-8 at byte ", at, " of '", TerminalText(line), "'"));
    }
    if (!line.empty()) scenario->texts.push_back(line);
  }
  if (file.bad()) return absl::InvalidArgumentError(absl::StrCat("--prompt_file: cannot read ", path));
  return absl::OkStatus();
}

absl::StatusOr<Scenario> ScenarioFromFlags() {
  Scenario s;
  absl::Status status = ParseDistribution("turns", absl::GetFlag(FLAGS_turns), &s.turns);
  status.Update(ParseDistribution("think_time", absl::GetFlag(FLAGS_think_time), &s.think_time));
  status.Update(ParseDistribution("prompt_tokens", absl::GetFlag(FLAGS_prompt_tokens), &s.prompt_tokens));
  status.Update(
      ParseDistribution("generated_tokens", absl::GetFlag(FLAGS_generated_tokens), &s.generated_tokens));
  status.Update(ReadSentences(&s));
  s.name = absl::GetFlag(FLAGS_name);
  s.concurrency = absl::GetFlag(FLAGS_concurrency);
  s.rate = absl::GetFlag(FLAGS_rate);
  s.temperature = static_cast<float>(absl::GetFlag(FLAGS_temperature));
  s.ignore_eos = absl::GetFlag(FLAGS_ignore_eos);
  s.turn_timeout = absl::GetFlag(FLAGS_turn_timeout);
  s.cancel_fraction = absl::GetFlag(FLAGS_cancel_fraction);
  s.warm_up = absl::GetFlag(FLAGS_warm_up);
  s.duration = absl::GetFlag(FLAGS_duration);
  s.max_turns = absl::GetFlag(FLAGS_max_turns);
  s.ramp = absl::GetFlag(FLAGS_ramp);
  s.grace = absl::GetFlag(FLAGS_grace);
  s.threads = absl::GetFlag(FLAGS_threads);
  s.channels = std::max(absl::GetFlag(FLAGS_channels), s.threads);
  s.seed = absl::GetFlag(FLAGS_seed);
  status.Update(s.Validate());
  const double max_failed = absl::GetFlag(FLAGS_max_failed);
  if (!(max_failed >= 0 && max_failed <= 1)) {
    status.Update(absl::InvalidArgumentError("--max_failed: in [0, 1]"));
  }
  if (!status.ok()) return status;
  return s;
}

int Main(int argc, char** argv) {
  if (WantsHelp(argc, argv)) {
    std::cout << Help() << std::flush;
    return std::cout ? kExitOk : kExitFailed;
  }
  absl::SetProgramUsageMessage(kUsage);
  if (absl::ParseCommandLine(argc, argv).size() > 1) {
    std::cerr << "sessaload: takes flags only; see --help" << std::endl;
    return kExitUsage;
  }
  const auto scenario = ScenarioFromFlags();
  if (!scenario.ok()) {
    std::cerr << "sessaload: " << scenario.status().message() << std::endl;
    return kExitUsage;
  }
  Interrupts interrupts;
  std::atomic<int> stops = 0;
  interrupts.SetHandler([&stops] {
    if (++stops > 2) _exit(kExitCancelled);
  });
  const std::string server = absl::GetFlag(FLAGS_server);
  const auto result = RunScenario(*scenario, server, &stops);
  if (!result.ok()) {
    std::cerr << "sessaload: " << DescribeError(result.status(), server) << std::endl;
    return ExitCodeOf(result.status());
  }

  const std::string json_path = absl::GetFlag(FLAGS_json), html_path = absl::GetFlag(FLAGS_html);
  std::cout << (json_path == "-" ? JsonReport(*result) : TextReport(*result)) << std::flush;
  bool written = bool(std::cout);
  if (!json_path.empty() && json_path != "-") written &= Write(json_path, JsonReport(*result));
  if (!html_path.empty()) written &= Write(html_path, HtmlReport(*result));
  if (!written) {
    std::cerr << "sessaload: cannot write the report" << std::endl;
    return kExitFailed;
  }
  const double failed = result->turns > 0 ? static_cast<double>(result->failed_turns) / result->turns : 1;
  return failed > absl::GetFlag(FLAGS_max_failed) ? kExitInvalid : kExitOk;
}

}  // namespace
}  // namespace sessa

int main(int argc, char** argv) { return sessa::Main(argc, argv); }
