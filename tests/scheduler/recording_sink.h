// A sink that writes down what a turn was told.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/mutex.h"
#include "scheduler/request.h"

namespace sessa {

// What came out of one sample.
struct SampleRecord {
  std::vector<int32_t> tokens;
  std::vector<OutputResult> logprobs;
  std::string text;
  std::optional<SampleFinishedEvent> finished;
};

// What came out of a turn. Copied out under the sink's lock.
struct TurnRecord {
  std::optional<StartedEvent> started;
  std::vector<SampleRecord> samples;
  std::vector<ProgressEvent> progress;
  std::vector<OutputResult> prompt_logprobs;
  std::optional<FinishedEvent> finished;
  std::optional<absl::Status> error;
  int32_t ends = 0;                 // terminal events
  std::vector<std::string> broken;  // promises of TokenSink

  bool over() const { return ends > 0; }
};

// Thread-safe.
class RecordingSink : public TokenSink {
 public:
  explicit RecordingSink(int32_t n = 1) { record_.samples.resize(n); }

  void OnStarted(StartedEvent event) override {
    MutexLock lock(&mutex_);
    Check(!record_.started && !record_.over(), "started once, first");
    position_ = event.position + event.prompt_tokens;
    record_.started = std::move(event);
  }
  void OnProgress(ProgressEvent event) override {
    MutexLock lock(&mutex_);
    Check(!record_.over(), "nothing after the end");
    Check(event.tokens_done > 0 && event.tokens_done < event.tokens_total, "progress is a part");
    Check(record_.samples[0].tokens.empty(), "no progress after a delta");
    record_.progress.push_back(event);
  }
  void OnPromptLogprobs(PromptLogprobsEvent event) override {
    MutexLock lock(&mutex_);
    Check(record_.started && event.position == record_.started->position + record_.prompt_logprobs.size(),
          "prompt log-probabilities in order");
    for (OutputResult& token : event.tokens) record_.prompt_logprobs.push_back(std::move(token));
  }
  void OnDelta(DeltaEvent event) override {
    MutexLock lock(&mutex_);
    Check(record_.started && !record_.over(), "deltas between start and end");
    SampleRecord& sample = record_.samples[event.index];
    Check(!sample.finished, "no delta after the sample's end");
    Check(event.position == position_ + static_cast<int64_t>(sample.tokens.size()), "positions of deltas");
    for (int32_t token : event.token_ids) sample.tokens.push_back(token);
    for (OutputResult& logprob : event.logprobs) sample.logprobs.push_back(std::move(logprob));
    sample.text += event.text;
  }
  void OnSampleFinished(SampleFinishedEvent event) override {
    MutexLock lock(&mutex_);
    SampleRecord& sample = record_.samples[event.index];
    Check(!sample.finished && !record_.over(), "one end a sample");
    sample.finished = std::move(event);
  }
  void OnFinished(FinishedEvent event) override {
    MutexLock lock(&mutex_);
    for (const SampleRecord& sample : record_.samples)
      Check(sample.finished.has_value(), "every sample has ended");
    record_.finished = event;
    End();
  }
  void OnError(absl::Status status) override {
    MutexLock lock(&mutex_);
    Check(!status.ok(), "an error that is one");
    record_.error = std::move(status);
    End();
  }

  TurnRecord record() const {
    MutexLock lock(&mutex_);
    return record_;
  }
  bool over() const {
    MutexLock lock(&mutex_);
    return record_.over();
  }
  void Wait() {
    MutexLock lock(&mutex_);
    while (!record_.over()) ended_.Wait(&mutex_);
  }

 private:
  void End() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Check(++record_.ends == 1, "one terminal event");
    ended_.SignalAll();
  }
  void Check(bool truth, const char* promise) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!truth) record_.broken.push_back(promise);
  }

  mutable Mutex mutex_;
  CondVar ended_;
  TurnRecord record_ ABSL_GUARDED_BY(mutex_);
  int64_t position_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sessa
