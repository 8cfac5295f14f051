// How much prefill a step may carry beside decodes.
#pragma once

#include <array>
#include <cstdint>

namespace sessa {

// A chunk of a prompt delays every decoder of its step. The governor learns what chunks add to a step,
// fixed + per_row * rows seconds, and allows what adds no more than a step without prefill takes: then nobody
// waits more than twice as long as usual. Where a chunk of any size has its price, cutting finer would only
// waste time: a chunk is always large enough for half of the rate of prefill at max_rows. Engine-thread only.
class ChunkGovernor {
 public:
  explicit ChunkGovernor(int32_t max_rows);

  // Of a step that decodes, too; in [1, max_rows]. An eighth of max_rows until both kinds of steps have been
  // seen.
  int32_t MaxPrefillRows() const { return limit_; }
  // What a step of so many rows took.
  void Observe(int32_t decode_rows, int32_t prefill_rows, double seconds);

 private:
  void ObserveChunk(double rows, double seconds);
  double DecodeSeconds(int32_t rows) const;  // of as many rows, or of the nearest number that was seen
  void UpdateLimit(double decode_seconds);

  const int32_t max_rows_;
  int32_t limit_;
  // Of a step without prefill, by the logarithm of its rows; 0: not seen yet.
  std::array<double, 32> decode_seconds_{};
  // Regression of y = seconds / rows on x = 1 / rows, whose slope is the fixed part; running averages.
  bool chunk_seen_ = false;
  double mean_x_ = 0, mean_y_ = 0, variance_x_ = 0, covariance_ = 0;
};

}  // namespace sessa
