// How much memory this machine still has for this process.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sessa {

// Bytes that the process may still take before something is swapped out or killed: the least of what the
// machine has available and what each control group around the process has left under its limit (version 2,
// or 1). Cached files count as free, since the kernel drops them for whoever needs the memory. nullopt: the
// system does not tell. `root` is the folder that holds proc/ and sys/; tests have one of their own. Any
// thread.
std::optional<int64_t> FreeHostMemory(const std::string& root = "");

}  // namespace sessa
