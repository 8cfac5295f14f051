// How much prefill a step may carry beside decodes.
#pragma once

#include <array>
#include <cstdint>

#include "scheduler/chunk_cost.h"

namespace sessa {

// A chunk of a prompt delays every decoder of its step. The governor learns what chunks add to a step and
// allows what adds a part of the time that a step without prefill takes: so that nobody waits more than about
// twice as long as usual, slow steps included. Where several turns wait for their prompts, a step without
// prefill delays those instead, so the allowance grows with their number per decoder. Where a chunk of any
// size has its price, cutting finer would only waste time: a chunk is always large enough for half of the
// rate of prefill at max_rows. Engine-thread only.
class ChunkGovernor {
 public:
  explicit ChunkGovernor(int32_t max_rows);

  // Of a step with so many decode rows, while `waiting` turns (at least one) have prompt tokens to come, the
  // next of them at `place` on average; at most max_rows. An eighth of max_rows until both kinds of steps
  // have been seen. 0, once in a while: this step goes without prefill, to learn what decoding alone takes.
  int32_t MaxPrefillRows(int32_t decode_rows, int32_t waiting, double place) const;
  // What a step took.
  void Observe(int32_t decode_rows, const PrefillChunk& chunk, double seconds);

 private:
  // Steps with about so many decode rows: by the logarithm of the number.
  struct Decoding {
    double seconds = 0;              // average of those without prefill; 0: not seen yet
    int32_t steps_with_prefill = 0;  // since the last one without
  };
  static int32_t Bucket(int32_t decode_rows);
  double DecodeSeconds(int32_t rows) const;  // of as many rows, or of the nearest number that was seen

  const int32_t max_rows_;
  std::array<Decoding, 32> decoding_{};
  int64_t chunks_ = 0;  // seen
  ChunkCost cost_;
};

}  // namespace sessa
