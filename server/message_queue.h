// Messages that wait for their client, for streams whose messages are not joined.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <utility>

namespace sessa {

// Not thread-safe. The buffer of a StreamWriter.
template <class Message>
class MessageQueue {
 public:
  Message* Add() {
    queue_.push_back(std::make_unique<Message>());
    return queue_.back().get();
  }
  bool empty() const { return queue_.empty(); }
  size_t messages() const { return queue_.size(); }
  int64_t bytes() const {
    int64_t bytes = 0;
    for (const auto& message : queue_) bytes += static_cast<int64_t>(message->SpaceUsedLong());
    return bytes;
  }
  std::unique_ptr<Message> Pop() {
    auto message = std::move(queue_.front());
    queue_.pop_front();
    return message;
  }
  void Recycle(std::unique_ptr<Message>) {}
  void Clear() { queue_.clear(); }

 private:
  std::deque<std::unique_ptr<Message>> queue_;
};

}  // namespace sessa
