#include "runtime/checkpoint/fingerprint.h"

#include <cstring>

namespace sessa {
namespace {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection in which every input bit reaches every
// output bit.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

uint64_t Word(const char* bytes, size_t size) {
  uint64_t word = 0;
  std::memcpy(&word, bytes, size);
  return word;
}

}  // namespace

void Fingerprint::Add(absl::string_view bytes) {
  // Four independent chains, so that the multiplications overlap; each step is a bijection of chain ^ word.
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;
  uint64_t chain[4] = {state_ + 1, state_ + 2, state_ + 3, state_ + 4};
  const char* p = bytes.data();
  size_t left = bytes.size();
  for (; left >= 32; p += 32, left -= 32) {
    for (int i = 0; i < 4; ++i) {
      const uint64_t x = (chain[i] ^ Word(p + 8 * i, 8)) * kOdd;
      chain[i] = x ^ (x >> 29);
    }
  }
  for (int i = 0; left > 0; ++i) {
    const size_t size = left < 8 ? left : 8;
    chain[i] = Mix(chain[i] ^ Word(p, size));
    p += size;
    left -= size;
  }
  state_ = Mix(state_ ^ bytes.size());
  for (const uint64_t c : chain) state_ = Mix(state_ ^ Mix(c)) + kOdd;
}

}  // namespace sessa
