#include "server/stream_buffer.h"

#include <utility>

#include "server/response_builder.h"

namespace sessa {
namespace {

constexpr int64_t kMessageBytes = 64;          // of a small message in memory, about
constexpr int64_t kMaxJoinedBytes = 32 << 10;  // a joined delta stays below the usual limits of message size
constexpr int64_t kLogprobBytes = 24;

int64_t LogprobBytes(const std::vector<OutputResult>& results) {
  int64_t bytes = 0;
  for (const OutputResult& result : results)
    bytes += kLogprobBytes * (1 + static_cast<int64_t>(result.top.size()));
  return bytes;
}

int64_t Bytes(const DeltaEvent& event) {
  return static_cast<int64_t>(event.token_ids.size()) * 4 + static_cast<int64_t>(event.text.size()) +
         LogprobBytes(event.logprobs);
}

}  // namespace

v1::GenerateResponse* StreamBuffer::Append(int64_t bytes) {
  queue_.push_back({std::make_unique<v1::GenerateResponse>(), bytes});
  bytes_ += bytes;
  return queue_.back().message.get();
}

void StreamBuffer::Push(const StartedEvent& event) { Fill(event, Append(kMessageBytes)->mutable_started()); }

void StreamBuffer::Push(const ProgressEvent& event) {
  const bool replace = !queue_.empty() && queue_.back().message->has_progress();
  v1::GenerateResponse* message = replace ? queue_.back().message.get() : Append(kMessageBytes);
  message->mutable_progress()->set_tokens_done(event.tokens_done);
  message->mutable_progress()->set_tokens_total(event.tokens_total);
}

void StreamBuffer::Push(const PromptLogprobsEvent& event) {
  // Nothing predicts the first token of a session: the core says so with a number that is none.
  const size_t skipped = event.position == 0 && !event.tokens.empty() ? 1 : 0;
  if (event.tokens.size() == skipped) return;
  v1::PromptLogprobs* out = Append(kMessageBytes + LogprobBytes(event.tokens))->mutable_prompt_logprobs();
  out->set_position(event.position + static_cast<int64_t>(skipped));
  for (size_t i = skipped; i < event.tokens.size(); ++i) Fill(event.tokens[i], tokenizer_, out->add_tokens());
}

StreamBuffer::Entry* StreamBuffer::FindJoinable(const DeltaEvent& event) {
  // Back over the deltas of the other samples; any other message is a border.
  for (auto entry = queue_.rbegin(); entry != queue_.rend() && entry->message->has_delta(); ++entry) {
    const v1::Delta& delta = entry->message->delta();
    if (delta.index() != event.index) continue;
    const bool adjacent = delta.position() + delta.token_ids_size() == event.position;
    return adjacent && entry->bytes < kMaxJoinedBytes ? &*entry : nullptr;
  }
  return nullptr;
}

std::unique_ptr<v1::GenerateResponse> StreamBuffer::NewDelta() {
  if (spare_ != nullptr) return std::move(spare_);
  return std::make_unique<v1::GenerateResponse>();
}

void StreamBuffer::Push(DeltaEvent&& event) {
  Entry* entry = FindJoinable(event);
  if (entry == nullptr) {
    queue_.push_back({NewDelta(), kMessageBytes});
    bytes_ += kMessageBytes;
    entry = &queue_.back();
    entry->message->mutable_delta()->set_index(event.index);
    entry->message->mutable_delta()->set_position(event.position);
  }
  v1::Delta* delta = entry->message->mutable_delta();
  delta->mutable_token_ids()->Add(event.token_ids.begin(), event.token_ids.end());
  delta->mutable_text()->append(event.text);
  for (const OutputResult& result : event.logprobs) Fill(result, tokenizer_, delta->add_logprobs());
  const int64_t bytes = Bytes(event);
  entry->bytes += bytes;
  bytes_ += bytes;
}

void StreamBuffer::Push(const SampleFinishedEvent& event) {
  Fill(event, Append(kMessageBytes)->mutable_sample_finished());
}

void StreamBuffer::Push(const FinishedEvent& event) {
  v1::Finished* finished = Append(kMessageBytes)->mutable_finished();
  Fill(event, finished->mutable_usage(), finished->mutable_timing());
  finished->set_position(event.position);
}

std::unique_ptr<v1::GenerateResponse> StreamBuffer::Pop() {
  Entry entry = std::move(queue_.front());
  queue_.pop_front();
  bytes_ -= entry.bytes;
  return std::move(entry.message);
}

void StreamBuffer::Recycle(std::unique_ptr<v1::GenerateResponse> message) {
  if (spare_ != nullptr || message == nullptr || !message->has_delta()) return;
  if (message->delta().token_ids_size() > 64) return;  // do not hold on to the memory of a large one
  message->mutable_delta()->Clear();
  spare_ = std::move(message);
}

void StreamBuffer::Clear() {
  queue_.clear();
  bytes_ = 0;
}

}  // namespace sessa
