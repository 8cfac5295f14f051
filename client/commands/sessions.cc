#include <iostream>
#include <optional>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/commands/command.h"
#include "client/flags.h"
#include "client/json.h"
#include "client/proto_time.h"
#include "client/text.h"

ABSL_FLAG(int32_t, limit, 0, "sessions to list at most; 0: all");
ABSL_FLAG(std::optional<int64_t>, position, std::nullopt,
          "tokens to take over (fork; unset: all) or to keep (rewind; required)");

namespace sessa {
namespace {

constexpr int kPageSize = 1000;

std::string Ago(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "-";
  return FormatSeconds(
             std::max(absl::Trunc(absl::Now() - ToTime(time), absl::Seconds(1)), absl::ZeroDuration())) +
         " ago";
}

int Print(const CommandContext& context, const absl::StatusOr<v1::Session>& session) {
  if (!session.ok()) return Fail(context, session.status());
  if (context.json) {
    std::cout << ToJson(*session, JsonStyle::kIndented) << std::flush;
    return kExitOk;
  }
  Table table;
  table.Row("session", session->session_id());
  table.Row("position", absl::StrCat(session->position(), " tokens"));
  table.Row("state on device", absl::StrCat(session->cached_tokens(), " tokens"));
  table.Row("turn", !session->busy()                        ? "none"
                    : session->running_request_id().empty() ? "running"
                                                            : "running, " + session->running_request_id());
  table.Row("created", Ago(session->create_time()));
  table.Row("last used", Ago(session->last_use_time()));
  if (session->has_expire_time()) table.Row("expires", absl::FormatTime(ToTime(session->expire_time())));
  if (!session->parent_session_id().empty()) {
    table.Row("forked from", absl::StrCat(session->parent_session_id(), " at ", session->fork_position()));
  }
  for (const auto& [key, value] : session->labels()) table.Row("label " + key, value);
  table.Print();
  return kExitOk;
}

int List(const CommandContext& context) {
  const int limit = absl::GetFlag(FLAGS_limit);
  if (limit < 0) return FailUsage(context, "--limit: at least 0");
  v1::ListSessionsResponse all;
  v1::ListSessionsRequest request;
  do {
    request.set_page_size(limit > 0 ? std::min(kPageSize, limit - all.sessions_size()) : kPageSize);
    auto page = context.client->ListSessions(request, QuickCall());
    if (!page.ok()) return Fail(context, page.status());
    all.mutable_sessions()->MergeFrom(page->sessions());
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty() && (limit == 0 || all.sessions_size() < limit));
  if (context.json) {
    std::cout << ToJson(all, JsonStyle::kIndented) << std::flush;
    return kExitOk;
  }
  std::cout << absl::StreamFormat("%-34s %9s %9s  %-8s %s\n", "SESSION", "TOKENS", "CACHED", "TURN",
                                  "LAST USED");
  for (const v1::Session& session : all.sessions()) {
    std::cout << absl::StreamFormat("%-34s %9d %9d  %-8s %s\n", TerminalText(session.session_id()),
                                    session.position(), session.cached_tokens(),
                                    session.busy() ? "running" : "-", Ago(session.last_use_time()));
  }
  std::cout << std::flush;
  return kExitOk;
}

int Show(const CommandContext& context) {
  v1::GetSessionRequest request;
  request.set_session_id(context.args[0]);
  return Print(context, context.client->GetSession(request, QuickCall()));
}

int Create(const CommandContext& context) {
  v1::CreateSessionRequest request;
  request.set_request_id(RandomId());
  const auto session = context.client->CreateSession(request, QuickCall());
  if (!session.ok()) return Fail(context, session.status());
  std::cout << (context.json ? ToJson(*session, JsonStyle::kIndented)
                             : TerminalText(session->session_id()) + "\n")
            << std::flush;
  return kExitOk;
}

int Delete(const CommandContext& context) {
  for (const std::string& id : context.args) {
    v1::DeleteSessionRequest request;
    request.set_request_id(RandomId());
    request.set_session_id(id);
    const absl::Status status = context.client->DeleteSession(request, QuickCall());
    if (!status.ok()) return Fail(context, status);
  }
  if (context.json) std::cout << "{}" << std::endl;
  return kExitOk;
}

int Fork(const CommandContext& context) {
  v1::ForkSessionRequest request;
  request.set_request_id(RandomId());
  request.set_session_id(context.args[0]);
  if (const auto position = absl::GetFlag(FLAGS_position)) request.set_position(*position);
  return Print(context, context.client->ForkSession(request, QuickCall()));
}

int Rewind(const CommandContext& context) {
  const auto position = absl::GetFlag(FLAGS_position);
  if (!position) return FailUsage(context, "--position says how many tokens to keep");
  v1::RewindSessionRequest request;
  request.set_request_id(RandomId());
  request.set_session_id(context.args[0]);
  request.set_position(*position);
  return Print(context, context.client->RewindSession(request, QuickCall()));
}

}  // namespace

std::vector<Command> SessionCommands() {
  return {{"sessions list",
           "",
           "the sessions that the daemon keeps",
           "By id; CACHED tokens have their state on the device.",
           "sessactl sessions list --limit=20",
           {"limit"},
           0,
           0,
           &List},
          {"sessions show", "ID", "one session", "", "sessactl sessions show ID", {}, 1, 1, &Show},
          {"sessions create",
           "",
           "a new, empty session; prints its id",
           "`generate --keep` makes one too.",
           "ID=$(sessactl sessions create)",
           {},
           0,
           0,
           &Create},
          {"sessions fork",
           "ID",
           "a new session that begins like another",
           "Takes over the first --position tokens (all without it); the pages of their state are shared.",
           "sessactl sessions fork ID --position=128",
           {"position"},
           1,
           1,
           &Fork},
          {"sessions rewind",
           "ID",
           "drop a session's last tokens",
           "Keeps the first --position tokens.",
           "sessactl sessions rewind ID --position=128",
           {"position"},
           1,
           1,
           &Rewind},
          {"sessions delete",
           "ID...",
           "forget sessions for good",
           "A turn that runs is cancelled first.",
           "sessactl sessions delete ID",
           {},
           1,
           -1,
           &Delete}};
}

}  // namespace sessa
