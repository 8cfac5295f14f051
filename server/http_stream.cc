#include "server/http_stream.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/time/clock.h"

namespace sessa {
namespace {

using NameOf = int (*)(int, sockaddr*, socklen_t*);

void FindName(socket_t socket, NameOf name_of, std::string* ip, int* port) {
  sockaddr_storage storage = {};
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  socklen_t length = sizeof storage;
  char host[NI_MAXHOST], service[NI_MAXSERV];
  if (name_of(socket, address, &length) != 0 ||
      getnameinfo(address, length, host, sizeof host, service, sizeof service,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return;
  }
  *ip = host;
  *port = std::atoi(service);
}

}  // namespace

bool HttpStream::Wait(short events) const {
  for (;;) {
    const int64_t left = absl::ToInt64Milliseconds(absl::Ceil(end_ - absl::Now(), absl::Milliseconds(1)));
    if (left <= 0) return false;
    pollfd fds[] = {{socket_, events, 0}, {stop_fd_, POLLIN, 0}};
    const int ready = poll(fds, 2, static_cast<int>(std::min<int64_t>(left, 60'000)));
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    return fds[1].revents == 0;
  }
}

bool HttpStream::is_readable() const { return begin_ < size_ || Wait(POLLIN); }

bool HttpStream::is_writable() const { return Wait(POLLOUT); }

ssize_t HttpStream::read(char* data, size_t size) {
  if (begin_ == size_) {
    if (!Wait(POLLIN)) return -1;
    const ssize_t received = recv(socket_, buffer_, sizeof buffer_, MSG_DONTWAIT);
    if (received <= 0) return received;
    begin_ = 0;
    size_ = static_cast<size_t>(received);
  }
  const size_t taken = std::min(size, size_ - begin_);
  std::memcpy(data, buffer_ + begin_, taken);
  begin_ += taken;
  return static_cast<ssize_t>(taken);
}

ssize_t HttpStream::write(const char* data, size_t size) {
  if (!Wait(POLLOUT)) return -1;
  return send(socket_, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void HttpStream::get_remote_ip_and_port(std::string& ip, int& port) const {
  FindName(socket_, getpeername, &ip, &port);
}

void HttpStream::get_local_ip_and_port(std::string& ip, int& port) const {
  FindName(socket_, getsockname, &ip, &port);
}

}  // namespace sessa
