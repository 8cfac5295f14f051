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

ABSL_FLAG(std::string, question,
          "Q: {}\nA:", "what a line that ends with ? becomes, {} being the line; the model answers");
ABSL_FLAG(std::string, statement, "{}\n",
          "what another line becomes; it is told to the model, which does not answer. Empty: lines are all "
          "questions");

namespace sessa {
namespace {

constexpr char kHelp[] =
    "A line that ends with ? is a question; another one is told to the model and remembered.\n"
    "/session  the session's id and length     /stats  token counts and times on or off\n"
    "/new      a new session                   /quit   or Ctrl-D: leave (the session stays)\n"
    "Ctrl-C cancels the answer that is running. Up and Down recall earlier lines.\n";

class Chat {
 public:
  Chat(const CommandContext& context, v1::GenerateRequest settings)
      : context_(context), settings_(std::move(settings)), stats_(absl::GetFlag(FLAGS_stats)) {}

  // Until the end of the input; the exit code.
  int Run() {
    const bool terminal = isatty(STDIN_FILENO) && !context_.json;
    if (terminal) std::cout << "Ask or tell; /help explains, Ctrl-D leaves." << std::endl;
    LineReader reader;
    std::string line;
    int exit_code = kExitOk;
    while (true) {
      const LineReader::Result result = reader.Read(terminal ? "> " : "", &line);
      if (result == LineReader::Result::kEnd || line == "/quit") break;
      if (result == LineReader::Result::kCancelled || absl::StripAsciiWhitespace(line).empty()) continue;
      exit_code = line[0] == '/' ? Builtin(line) : Turn(line);
      if (exit_code == kExitUnavailable && !terminal) break;
    }
    if (!settings_.session_id().empty() && !context_.json) {
      std::cerr << "session " << settings_.session_id()
                << " (come back with sessactl chat --session=" << settings_.session_id() << ")" << std::endl;
    }
    return exit_code;
  }

 private:
  int Builtin(const std::string& line) {
    if (line == "/stats") {
      stats_ = !stats_;
    } else if (line == "/new") {
      settings_.clear_session_id();
      at_line_start_ = true;
    } else if (line == "/session") {
      std::cout << (settings_.session_id().empty() ? "none yet" : settings_.session_id()) << ", position "
                << position_ << std::endl;
    } else {
      std::cout << kHelp << std::flush;
    }
    return kExitOk;
  }

  int Turn(const std::string& line) {
    const std::string statement = absl::GetFlag(FLAGS_statement);
    const bool question = statement.empty() || absl::EndsWith(absl::StripAsciiWhitespace(line), "?");
    v1::GenerateRequest request = settings_;
    request.set_request_id(RandomId());
    request.set_keep_session(true);
    request.set_text(absl::StrCat(
        at_line_start_ ? "" : "\n",
        absl::StrReplaceAll(question ? absl::GetFlag(FLAGS_question) : statement, {{"{}", line}})));
    if (!question) request.mutable_sampling()->set_max_tokens(0);
    TurnPrinter printer(context_.json, 1);
    const auto finished = RunTurn(context_, request, &printer);
    if (!printer.started().session_id().empty()) settings_.set_session_id(printer.started().session_id());
    if (!finished.ok()) return Fail(context_, finished.status());
    position_ = finished->position();
    at_line_start_ =
        question ? printer.reason() == v1::FINISH_REASON_STOP : absl::EndsWith(request.text(), "\n");
    const std::string reason = DescribeReason(printer.reason());
    if (!reason.empty() && !context_.json) std::cerr << "(" << reason << ")" << std::endl;
    if (stats_) std::cerr << DescribeTurn(*finished) << std::endl;
    return ExitCodeOf(printer.reason());
  }

  const CommandContext& context_;
  v1::GenerateRequest settings_;  // of every turn; session_id is filled in by the first one
  bool stats_;
  bool at_line_start_ = true;  // the session is empty or ends with a newline, as far as we know
  int64_t position_ = 0;
};

int RunChat(const CommandContext& context) {
  auto settings = GenerateRequestFromFlags();
  if (!settings.ok()) return Fail(context, settings.status());
  v1::SamplingParams* sampling = settings->mutable_sampling();
  if (!sampling->has_temperature()) sampling->set_temperature(0);
  if (sampling->stop().empty() && sampling->stop_token_ids().empty()) sampling->add_stop()->push_back('\n');
  return Chat(context, *std::move(settings)).Run();
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
