// A turn on the terminal: text as it comes, a progress line, Ctrl-C, the end.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "client/commands/command.h"

namespace sessa {

// Shows a turn's events. One thread.
class TurnPrinter {
 public:
  // `live`: for a turn of one sample, whose text appears as it comes. Else the samples are shown one after
  // the other at the end.
  TurnPrinter(bool json, bool live);
  void OnEvent(const v1::GenerateResponse& event);
  void End();  // the stream is over: finishes the line

  const v1::Started& started() const { return started_; }
  v1::FinishReason reason() const { return reason_; }  // of the last sample that finished
  // What the model said last: the end of its text, the stop string included. Empty: it said nothing.
  const std::string& last_text() const { return last_text_; }

 private:
  struct Sample {
    std::string text;
    std::vector<int32_t> ids;
  };
  void Progress(const v1::Progress& progress);
  void ClearProgress();
  void Show(const v1::Delta& delta);

  const bool json_;
  const bool live_;
  bool showed_progress_ = false;
  std::string last_text_;
  v1::Started started_;
  v1::FinishReason reason_ = v1::FINISH_REASON_UNSPECIFIED;
  std::map<int32_t, Sample> samples_;  // by index; those that the server has spoken of
};

// Runs a turn. The first Ctrl-C asks the server to cancel it (the session keeps what was sent), the second
// one gives up the call, and so does the first one where the server cannot be asked.
absl::StatusOr<v1::Finished> RunTurn(const CommandContext& context, const v1::GenerateRequest& request,
                                     TurnPrinter* printer);

// "8 tokens of prompt (57 cached), 6 generated, queue 12 us, ..." for --stats.
std::string DescribeTurn(const v1::Finished& finished);

// What a person should know of a turn that did not end by itself ("cancelled", "the context is full", ...);
// empty for one that did.
std::string DescribeReason(v1::FinishReason reason);

// The exit code that belongs to a finished turn's reason.
int ExitCodeOf(v1::FinishReason reason);

}  // namespace sessa
