// A fast 64-bit hash of a sequence of byte strings, for telling checkpoints apart. Not cryptographic.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace sessa {

// The value depends on the bytes only, on little-endian machines: it is stored in files. Internal to this
// folder.
class Fingerprint {
 public:
  void Add(absl::string_view bytes);  // order and borders of the strings count
  uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 0x5e55a00000000001;
};

}  // namespace sessa
