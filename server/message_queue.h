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
  void Add(Message message) {
    const auto bytes = static_cast<int64_t>(message.SpaceUsedLong());
    queue_.push_back({std::make_unique<Message>(std::move(message)), bytes});
    bytes_ += bytes;
  }
  bool empty() const { return queue_.empty(); }
  size_t messages() const { return queue_.size(); }
  int64_t bytes() const { return bytes_; }  // in memory, of what waits
  std::unique_ptr<Message> Pop() {
    Entry entry = std::move(queue_.front());
    queue_.pop_front();
    bytes_ -= entry.bytes;
    return std::move(entry.message);
  }
  void Recycle(std::unique_ptr<Message>) {}
  void Clear() {
    queue_.clear();
    bytes_ = 0;
  }

 private:
  struct Entry {
    std::unique_ptr<Message> message;
    int64_t bytes = 0;
  };

  std::deque<Entry> queue_;
  int64_t bytes_ = 0;
};

}  // namespace sessa
