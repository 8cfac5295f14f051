// Servers on this machine, for which no proxy of the environment's is meant.
#pragma once

#include <arpa/inet.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace sessa {

// Of HOST:PORT: whether HOST is localhost, an IPv4 address of 127.0.0.0/8, or [::1]. gRPC obeys http_proxy
// for these too, unless no_proxy names them; a client turns that off with GRPC_ARG_ENABLE_HTTP_PROXY.
inline bool IsLoopback(absl::string_view server) {
  const absl::string_view host = server.substr(0, server.rfind(':'));
  in_addr address;
  const bool ipv4 = inet_pton(AF_INET, std::string(host).c_str(), &address) == 1;
  return host == "[::1]" || absl::EqualsIgnoreCase(host, "localhost") ||
         (ipv4 && ntohl(address.s_addr) >> 24 == 127);
}

}  // namespace sessa
