#include <unistd.h>

#include <deque>
#include <iostream>

#include "absl/flags/flag.h"
#include "client/commands/command.h"
#include "client/commands/status_view.h"
#include "client/flags.h"
#include "client/json.h"

ABSL_FLAG(absl::Duration, interval, absl::Seconds(1), "between two updates, at least 100ms");
ABSL_FLAG(bool, once, false, "print one status and leave");

namespace sessa {
namespace {

constexpr size_t kHistory = 60;  // updates

int Top(const CommandContext& context) {
  const bool once = absl::GetFlag(FLAGS_once);
  const bool live = !once && !context.json && isatty(STDOUT_FILENO);
  std::deque<double> history;
  CallCanceller canceller;
  context.interrupts->SetHandler([&canceller] { canceller.Cancel(); });
  if (live) std::cout << "\x1B[?25l\x1B[2J";  // no cursor, empty screen
  const absl::Status status = context.client->WatchStatus(
      absl::GetFlag(FLAGS_interval), LongCall(&canceller), [&](const v1::ServerStatus& update) {
        history.push_back(update.rates().generated_tokens_per_second());
        if (history.size() > kHistory) history.pop_front();
        if (context.json) {
          std::cout << ToJson(update, JsonStyle::kLine) << std::endl;
        } else {
          std::string screen = StatusScreen(update, once ? std::deque<double>() : history);
          // Each line erases what an earlier, longer one left behind it.
          for (size_t at = 0; live && (at = screen.find('\n', at)) != std::string::npos; at += 4) {
            screen.insert(at, "\x1B[K");
          }
          std::cout << (live ? "\x1B[H" : "") << screen << (live ? "\x1B[J" : "") << std::flush;
        }
        return !once && std::cout.good();  // what nobody can read need not go on
      });
  if (live) std::cout << "\x1B[?25h" << std::flush;
  context.interrupts->SetHandler(nullptr);
  if (!status.ok() && status.code() != absl::StatusCode::kCancelled) return Fail(context, status);
  return kExitOk;
}

}  // namespace

std::vector<Command> TopCommands() {
  return {{"top",
           "",
           "the daemon's state, live",
           "Turns, tokens a second, batch, step times, device share, state pages. Ctrl-C leaves. With --json "
           "one\n"
           "line an update.",
           "sessactl top\nsessactl top --once",
           {"interval", "once"},
           0,
           0,
           &Top}};
}

}  // namespace sessa
