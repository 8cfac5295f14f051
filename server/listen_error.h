// Why an address cannot be listened on: the libraries only say that it cannot.
#pragma once

#include <string>

#include "server/flag_values.h"

namespace sessa {

// Whether somebody listens on a Unix socket's path: gRPC would take it away from them. `address`: unix:PATH.
bool IsUnixAddressTaken(const std::string& address);

// Tries to bind the address and says what the system answers ("Address already in use"); "unknown reason"
// when it works now.
std::string WhyCannotListen(const HostPort& address);

}  // namespace sessa
