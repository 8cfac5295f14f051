// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
// easy as 1, 2, 3" (SC 2011). A pure function of key and counter, the same on host and device: a draw does
// not depend on what was drawn before or beside it.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SESSA_HOST_DEVICE __host__ __device__
#else
#define SESSA_HOST_DEVICE
#endif

namespace sessa {

struct PhiloxBlock {
  uint32_t word[4];
};

SESSA_HOST_DEVICE inline PhiloxBlock Philox4x32(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t even = uint64_t{0xD2511F53} * counter.word[0];
    const uint64_t odd = uint64_t{0xCD9E8D57} * counter.word[2];
    counter = {{static_cast<uint32_t>(odd >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(odd),
                static_cast<uint32_t>(even >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(even)}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// The uniform number in [0, 1), a multiple of 2^-53, with which the token at `position` of a session is
// drawn.
SESSA_HOST_DEVICE inline double DrawUniform(uint64_t seed, uint32_t sample_index, int64_t position) {
  const uint64_t at = static_cast<uint64_t>(position);
  const PhiloxBlock block =
      Philox4x32({{static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), sample_index, 0}},
                 static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const uint64_t bits = uint64_t{block.word[0]} << 32 | block.word[1];
  return static_cast<double>(bits >> 11) * (1.0 / 9007199254740992.0);
}

}  // namespace sessa
