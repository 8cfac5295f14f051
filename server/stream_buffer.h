// What a turn has produced and its client has not taken yet: a bounded queue of messages in which consecutive
// deltas of a sample are joined, so a reader that is behind gets fewer and larger messages.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>

#include "runtime/tokenizer.h"
#include "scheduler/request.h"
#include "sessa/v1/inference.pb.h"

namespace sessa {

// Not thread-safe.
class StreamBuffer {
 public:
  explicit StreamBuffer(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  void Push(const StartedEvent& event);
  void Push(const ProgressEvent& event);  // replaces one that still waits
  void Push(const PromptLogprobsEvent& event);
  void Push(DeltaEvent&& event);
  void Push(const SampleFinishedEvent& event);
  void Push(const FinishedEvent& event);

  bool empty() const { return queue_.empty(); }
  size_t messages() const { return queue_.size(); }
  int64_t bytes() const { return bytes_; }  // about, of what waits

  // The oldest message. REQUIRES: !empty().
  std::unique_ptr<v1::GenerateResponse> Pop();
  // Gives a message that was sent back for reuse.
  void Recycle(std::unique_ptr<v1::GenerateResponse> message);
  void Clear();

 private:
  struct Entry {
    std::unique_ptr<v1::GenerateResponse> message;
    int64_t bytes = 0;
  };

  v1::GenerateResponse* Append(int64_t bytes);
  std::unique_ptr<v1::GenerateResponse> NewDelta();
  // The entry that a delta of this sample can be joined to; nullptr: none.
  Entry* FindJoinable(const DeltaEvent& event);

  const Tokenizer* const tokenizer_;  // may be null
  std::deque<Entry> queue_;
  int64_t bytes_ = 0;
  std::unique_ptr<v1::GenerateResponse> spare_;  // a delta, emptied: keeps its allocations for the next token
};

}  // namespace sessa
