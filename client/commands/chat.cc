#include <unistd.h>

#include <iostream>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/commands/turn.h"
#include "client/flags.h"
#include "client/line_editor.h"
#include "client/text.h"

ABSL_FLAG(
    std::string, question, "Q: {}\\nA:",
    "what a line that ends with ? becomes, {} being the line, with \\n \\t \\\\ \\xHH for characters; the "
    "model answers");
ABSL_FLAG(
    std::string, statement, "{}\\n",
    "what another line becomes, written likewise; it is told to the model, which does not answer. Empty: "
    "lines are all questions");

namespace sessa {
namespace {

constexpr char kHelp[] =
    "A line that ends with ? is a question; another one is told to the model and remembered.\n"
    "/session  the session's id and length     /stats  token counts and times on or off\n"
    "/new      a new session                   /quit   or Ctrl-D: leave (the session stays)\n"
    "Ctrl-C cancels the answer that is running. Up and Down recall earlier lines.\n";

// What a line becomes.
struct Forms {
  std::string question, statement;
};

class Chat {
 public:
  Chat(const CommandContext& context, v1::GenerateRequest settings, Forms forms)
      : context_(context),
        settings_(std::move(settings)),
        forms_(std::move(forms)),
        stats_(absl::GetFlag(FLAGS_stats)) {}

  // Until the end of the input. The exit code: of the first line that failed; kExitOk for a person, who has
  // seen it.
  int Run() {
    const bool terminal = isatty(STDIN_FILENO) && !context_.json;
    if (terminal) std::cout << "Ask or tell; /help explains, Ctrl-D leaves." << std::endl;
    std::string line;
    int first_failure = kExitOk;
    while (true) {
      const LineReader::Result result = Read(terminal ? "> " : "", &line);
      if (result == LineReader::Result::kEnd || line == "/quit") break;
      if (result == LineReader::Result::kCancelled || absl::StripAsciiWhitespace(line).empty()) continue;
      const int code = line[0] == '/' ? Builtin(line) : Turn(line);
      if (terminal) continue;
      if (first_failure == kExitOk) first_failure = code;
      if (code == kExitUnavailable) break;
    }
    SayHowToComeBack();
    return first_failure;
  }

 private:
  // A signal meanwhile ends the program, but the terminal must not stay raw.
  LineReader::Result Read(absl::string_view prompt, std::string* line) {
    context_.interrupts->SetHandler([this] {
      reader_.GiveBack();
      _exit(kExitCancelled);
    });
    const LineReader::Result result = reader_.Read(prompt, line);
    context_.interrupts->SetHandler(nullptr);
    return result;
  }

  void SayHowToComeBack() {
    if (settings_.session_id().empty() || context_.json) return;
    std::cerr << "session " << settings_.session_id()
              << " (come back with sessactl chat --session=" << settings_.session_id() << ")" << std::endl;
  }

  int Builtin(const std::string& line) {
    if (line == "/session") return ShowSession();
    if (line == "/stats") {
      stats_ = !stats_;
    } else if (line == "/new") {
      SayHowToComeBack();
      settings_.clear_session_id();
      at_line_start_ = true;
    } else {
      std::cout << kHelp << std::flush;
    }
    return kExitOk;
  }

  int ShowSession() {
    if (settings_.session_id().empty()) {
      std::cout << "none yet" << std::endl;
      return kExitOk;
    }
    v1::GetSessionRequest request;
    request.set_session_id(settings_.session_id());
    const auto session = context_.client->GetSession(request, QuickCall());
    if (!session.ok()) return Fail(context_, session.status());
    std::cout << TerminalText(session->session_id()) << ", position " << session->position() << std::endl;
    return kExitOk;
  }

  int Turn(const std::string& line) {
    const bool question = forms_.statement.empty() || absl::EndsWith(absl::StripAsciiWhitespace(line), "?");
    const std::string text =
        absl::StrReplaceAll(question ? forms_.question : forms_.statement, {{"{}", line}});
    v1::GenerateRequest request = settings_;
    request.set_request_id(RandomId());
    request.set_keep_session(true);
    request.set_text(at_line_start_ ? text : absl::StrCat("\n", text));
    if (!question) request.mutable_sampling()->set_max_tokens(0);
    TurnPrinter printer(context_.json, /*live=*/true);
    const auto finished = RunTurn(context_, request, &printer);
    if (!printer.started().session_id().empty()) settings_.set_session_id(printer.started().session_id());
    if (!finished.ok()) return Fail(context_, finished.status());
    at_line_start_ = absl::EndsWith(printer.last_text().empty() ? text : printer.last_text(), "\n");
    const std::string reason = DescribeReason(printer.reason());
    if (!reason.empty() && !context_.json) std::cerr << "(" << reason << ")" << std::endl;
    if (stats_) std::cerr << DescribeTurn(*finished) << std::endl;
    return ExitCodeOf(printer.reason());
  }

  const CommandContext& context_;
  v1::GenerateRequest settings_;  // of every turn; session_id is filled in by the first one
  const Forms forms_;
  LineReader reader_;
  bool stats_;
  bool at_line_start_ = true;  // the session is empty or ends with a newline, as far as we know
};

int RunChat(const CommandContext& context) {
  auto settings = GenerateRequestFromFlags();
  if (!settings.ok()) return Fail(context, settings.status());
  auto question = ParseEscaped(absl::GetFlag(FLAGS_question));
  if (!question.ok()) return FailUsage(context, absl::StrCat("--question: ", question.status().message()));
  auto statement = ParseEscaped(absl::GetFlag(FLAGS_statement));
  if (!statement.ok()) return FailUsage(context, absl::StrCat("--statement: ", statement.status().message()));
  v1::SamplingParams* sampling = settings->mutable_sampling();
  if (!sampling->has_temperature()) sampling->set_temperature(0);
  if (sampling->stop().empty() && sampling->stop_token_ids().empty()) sampling->add_stop()->push_back('\n');
  return Chat(context, *std::move(settings), {*std::move(question), *std::move(statement)}).Run();
}

}  // namespace

std::vector<Command> ChatCommands() {
  std::vector<const char*> flags = {"session", "question", "statement", "stats", "priority"};
  for (const char* flag : SamplingFlagNames()) flags.push_back(flag);
  return {
      {"chat", "", "talk with a session, line by line",
       "Keeps one session over many turns. A line that ends with ? is asked in the form that the bundled "
       "model was\n"
       "trained on (--question), and the answer is what the model says up to the next newline; any other "
       "line is\n"
       "told to it (--statement) and remembered. Greedy unless --temperature says otherwise. Ctrl-C cancels "
       "an\n"
       "answer and keeps the session; Ctrl-D leaves and prints how to come back. Lines may come from a pipe.",
       "sessactl chat\n"
       "sessactl chat --session=ID --stats\n"
       "printf 'Tom is in the barn.\\nWhere is Tom?\\n' | sessactl chat\n"
       "sessactl chat --statement= --question='{}\\n' --max_tokens=64   # every line is continued",
       flags, 0, 0, &RunChat}};
}

}  // namespace sessa
