// How much prefill a step may carry beside decodes.
#pragma once

#include <array>
#include <cstdint>

namespace sessa {

// A chunk of a prompt delays every decoder of its step. The governor learns what chunks add to a step,
// fixed + per_row * rows seconds, and allows what adds no more than a step without prefill takes: then nobody
// waits more than twice as long as usual. Where several turns wait for their prompts, a step without prefill
// delays those instead, so the allowance grows with their number per decoder. Where a chunk of any size has its
// price, cutting finer would only waste time: a chunk is always large enough for half of the rate of prefill at
// max_rows. Engine-thread only.
class ChunkGovernor {
 public:
  explicit ChunkGovernor(int32_t max_rows);

  // Of a step with so many decode rows, while `waiting` turns (at least one) have prompt tokens to come; at most
  // max_rows. An eighth of max_rows until both kinds of steps have been seen. 0, once in a while: this step goes
  // without prefill, to learn what decoding alone takes.
  int32_t MaxPrefillRows(int32_t decode_rows, int32_t waiting) const;
  // What a step of so many rows took.
  void Observe(int32_t decode_rows, int32_t prefill_rows, double seconds);

 private:
  // Steps with about so many decode rows: by the logarithm of the number.
  struct Decoding {
    double seconds = 0;             // average of those without prefill; 0: not seen yet
    int32_t steps_with_prefill = 0;  // since the last one without
  };
  static int32_t Bucket(int32_t decode_rows);
  void ObserveChunk(double rows, double seconds);
  double DecodeSeconds(int32_t rows) const;  // of as many rows, or of the nearest number that was seen
  int32_t Limit(double allowed_seconds) const;

  const int32_t max_rows_;
  std::array<Decoding, 32> decoding_{};
  // Regression of y = seconds / rows on x = 1 / rows, whose slope is the fixed part; running averages.
  bool chunk_seen_ = false;
  double mean_x_ = 0, mean_y_ = 0, variance_x_ = 0, covariance_ = 0;
};

}  // namespace sessa
