// A connection of the operator's HTTP. httplib bounds the time between two bytes only: a client that sends
// one now and then would hold a thread, and the server's end, for ever.
#pragma once

#include <httplib.h>

#include <string>

#include "absl/time/time.h"

namespace sessa {

// Reads and writes until a point in time or until `stop_fd` is readable, whichever is first; then fails. One
// thread. Owns neither descriptor.
class HttpStream : public httplib::Stream {
 public:
  HttpStream(socket_t socket, int stop_fd, absl::Time end) : socket_(socket), stop_fd_(stop_fd), end_(end) {}

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* data, size_t size) override;
  ssize_t write(const char* data, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return socket_; }

 private:
  bool Wait(short events) const;

  const socket_t socket_;
  const int stop_fd_;
  const absl::Time end_;
  // What was received and not asked for yet: httplib reads headers byte by byte.
  char buffer_[4096];
  size_t begin_ = 0, size_ = 0;
};

}  // namespace sessa
