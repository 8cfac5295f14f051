#include "server/listen_error.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sessa {

bool IsUnixAddressTaken(const std::string& address) {
  absl::string_view path = address;
  absl::ConsumePrefix(&path, "unix:");
  absl::ConsumePrefix(&path, "//");  // unix:///absolute is a way to write it, too
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof name.sun_path) return false;
  path.copy(name.sun_path, path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const bool taken = fd >= 0 && (connect(fd, reinterpret_cast<sockaddr*>(&name), sizeof name) == 0 ||
                                 errno == EAGAIN);  // many are waiting there
  if (fd >= 0) close(fd);
  return taken;
}

std::string WhyCannotListen(const HostPort& address) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
      error != 0) {
    return gai_strerror(error);
  }
  std::string why = "unknown reason";
  const int fd = socket(found->ai_family, SOCK_STREAM, 0);
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0)
    why = std::strerror(errno);
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return why;
}

}  // namespace sessa
