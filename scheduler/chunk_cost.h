// What prefill adds to a step, learnt from steps.
#pragma once

#include <array>
#include <cstdint>

namespace sessa {

// Prompt tokens of a step: `rows` of them, whose places in their sessions are `mean_place` on average. An
// attention reads all tokens before it, so a row costs more the later it comes.
struct PrefillChunk {
  int32_t rows = 0;
  double mean_place = 0;

  // Rows [start, start + count) of a session.
  void Add(int64_t start, int32_t count) {
    const double place = static_cast<double>(start) + 0.5 * count;
    mean_place = (mean_place * rows + place * count) / (rows + count);
    rows += count;
  }
};

// What a chunk adds to a step: fixed + rows (per_row + per_place mean_place) seconds, none of the three
// negative; least squares of the relative error with exponentially fading memory.
class ChunkCost {
 public:
  bool known() const { return known_; }
  void Observe(const PrefillChunk& chunk, double seconds);
  // Rows from `first_place` on that add `seconds`; 0 or less: not even one does.
  double RowsWithin(double seconds, double first_place) const;
  // Rows from `first_place` on at `share` of the tokens per second of a chunk of max_rows there.
  double RowsForRate(double share, double first_place, int32_t max_rows) const;

 private:
  static constexpr int kTerms = 3;
  using Terms = std::array<double, kTerms>;  // of fixed, per_row, per_place: 1 / rows, 1, mean_place
  double PerRow(double place) const { return factors_[1] + factors_[2] * place; }

  bool known_ = false;
  Terms factors_{};
  std::array<Terms, kTerms> products_{};  // sums of terms times terms, and of terms times seconds / rows
  Terms results_{};
};

}  // namespace sessa
