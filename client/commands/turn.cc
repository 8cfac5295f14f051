#include "client/commands/turn.h"

#include <unistd.h>

#include <atomic>
#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/flags.h"
#include "client/json.h"
#include "client/proto_time.h"
#include "client/text.h"

namespace sessa {
namespace {

// Cancels a turn on Ctrl-C while it lives.
class CancelOnInterrupt {
 public:
  CancelOnInterrupt(const CommandContext& context, const std::string& request_id, CallCanceller* canceller)
      : context_(context), request_id_(request_id), canceller_(canceller) {
    context_.interrupts->SetHandler([this] {
      if (++interrupts_ == 1) {
        CancelTurn();
      } else {
        canceller_->Cancel();
      }
    });
  }
  ~CancelOnInterrupt() { context_.interrupts->SetHandler(nullptr); }

  // From now on the server knows the turn. A Ctrl-C before that may have overtaken it: to a server that does
  // not know a turn it is over, which it answers with OK.
  void OnStarted() {
    if (interrupts_ > 0) CancelTurn();
  }

 private:
  void CancelTurn() {
    v1::CancelTurnRequest request;
    request.set_turn_request_id(request_id_);
    const CallOptions options{.deadline = absl::Now() + absl::Seconds(2)};
    if (!context_.client->CancelTurn(request, options).ok()) canceller_->Cancel();
  }

  const CommandContext& context_;
  const std::string request_id_;
  CallCanceller* const canceller_;
  std::atomic<int> interrupts_ = 0;
};

}  // namespace

TurnPrinter::TurnPrinter(bool json, bool live) : json_(json), live_(live) {}

void TurnPrinter::OnEvent(const v1::GenerateResponse& event) {
  if (event.has_started()) started_ = event.started();
  if (event.has_sample_finished()) {
    reason_ = event.sample_finished().reason();
    samples_[event.sample_finished().index()];  // shown even if it is empty
  }
  for (const std::string* text : {&event.delta().text(), &event.sample_finished().stop_matched()}) {
    if (!text->empty()) last_text_ = *text;
  }
  if (json_) {
    std::cout << ToJson(event, JsonStyle::kLine) << std::endl;
    return;
  }
  if (event.has_progress()) Progress(event.progress());
  if (event.has_delta()) Show(event.delta());
}

void TurnPrinter::Show(const v1::Delta& delta) {
  Sample& sample = samples_[delta.index()];
  sample.ids.insert(sample.ids.end(), delta.token_ids().begin(), delta.token_ids().end());
  sample.text += delta.text();
  if (delta.text().empty() || !live_) return;
  ClearProgress();
  std::cout << TerminalText(delta.text()) << std::flush;
}

void TurnPrinter::Progress(const v1::Progress& progress) {
  if (!isatty(STDERR_FILENO) || progress.tokens_total() == 0) return;
  std::cerr << absl::StreamFormat("\rreading the prompt: %d of %d tokens (%d %%)\x1B[K",
                                  progress.tokens_done(), progress.tokens_total(),
                                  100 * progress.tokens_done() / progress.tokens_total())
            << std::flush;
  showed_progress_ = true;
}

void TurnPrinter::ClearProgress() {
  if (showed_progress_) std::cerr << "\r\x1B[K" << std::flush;
  showed_progress_ = false;
}

void TurnPrinter::End() {
  ClearProgress();
  if (json_) return;
  for (const auto& [index, sample] : samples_) {
    if (!live_) std::cout << "--- sample " << index << "\n" << TerminalText(sample.text);
    // All text is out by now, so a sample without any is one of a model without a tokenizer.
    if (sample.text.empty() && !sample.ids.empty()) std::cout << absl::StrJoin(sample.ids, " ");
    if (!sample.ids.empty() && !absl::EndsWith(sample.text, "\n")) std::cout << "\n";
  }
  std::cout << std::flush;
}

absl::StatusOr<v1::Finished> RunTurn(const CommandContext& context, const v1::GenerateRequest& request,
                                     TurnPrinter* printer) {
  CallCanceller canceller;
  absl::StatusOr<v1::Finished> finished;
  {
    CancelOnInterrupt cancel(context, request.request_id(), &canceller);
    finished =
        context.client->Generate(request, LongCall(&canceller), [&](const v1::GenerateResponse& event) {
          if (event.has_started()) cancel.OnStarted();
          printer->OnEvent(event);
        });
  }
  printer->End();
  return finished;
}

std::string DescribeTurn(const v1::Finished& finished) {
  const v1::Usage& usage = finished.usage();
  const v1::Timing& timing = finished.timing();
  const absl::Duration decode = ToDuration(timing.decode());
  std::string text =
      absl::StrCat("prompt ", usage.prompt_tokens(), " tokens (", usage.cached_tokens(), " cached, ",
                   usage.recomputed_tokens(), " recomputed), generated ", usage.generated_tokens(),
                   "; queue ", FormatSeconds(ToDuration(timing.queue())), ", prefill ",
                   FormatSeconds(ToDuration(timing.prefill())), ", decode ", FormatSeconds(decode));
  if (usage.generated_tokens() > 1 && decode > absl::ZeroDuration()) {
    // The first token comes out of the prefill.
    absl::StrAppend(&text, " (", FormatCount((usage.generated_tokens() - 1) / absl::ToDoubleSeconds(decode)),
                    " tokens/s)");
  }
  return absl::StrCat(text, "; position ", finished.position());
}

std::string DescribeReason(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_CONTEXT_FULL:
      return "the context is full: the session cannot grow (sessactl model shows the limit)";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    case v1::FINISH_REASON_DEADLINE:
      return "the deadline (--timeout) passed";
    case v1::FINISH_REASON_DRAINED:
      return "the daemon is shutting down";
    case v1::FINISH_REASON_INTERRUPTED:
      return "the daemon restarted";
    case v1::FINISH_REASON_ERROR:
      return "the turn failed";
    default:
      return "";
  }
}

int ExitCodeOf(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_CANCELLED:
      return kExitCancelled;
    case v1::FINISH_REASON_DEADLINE:
      return kExitDeadline;
    case v1::FINISH_REASON_DRAINED:
    case v1::FINISH_REASON_INTERRUPTED:
      return kExitUnavailable;
    case v1::FINISH_REASON_ERROR:
      return kExitFailed;
    default:
      return kExitOk;
  }
}

}  // namespace sessa
