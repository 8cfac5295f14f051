#include "scheduler/chunk_cost.h"

#include <algorithm>
#include <cmath>

namespace sessa {
namespace {

constexpr double kMemory = 0.97;  // of a chunk's weight, after another one
// A chunk that took longer than this, in expected times, was disturbed: it counts as that long.
constexpr double kDisturbed = 3.0;
// What chunks of one size leave open is taken for a price of rows, not of the chunk; in its sum of squares.
constexpr double kRidge = 1e-4;
constexpr int kSweeps = 8;

}  // namespace

// Coordinate descent on the normal equations, from the factors so far.
void ChunkCost::Observe(const PrefillChunk& chunk, double seconds) {
  const Terms terms = {1.0 / chunk.rows, 1.0, chunk.mean_place};
  double result = seconds / chunk.rows;
  if (known_) {
    const double expected = factors_[0] * terms[0] + PerRow(chunk.mean_place);
    if (expected > 0) result = std::min(result, kDisturbed * expected);
  }
  known_ = true;
  for (int i = 0; i < kTerms; ++i) {
    for (int j = 0; j < kTerms; ++j) products_[i][j] = kMemory * products_[i][j] + terms[i] * terms[j];
    results_[i] = kMemory * results_[i] + terms[i] * result;
  }
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (const int i : {1, 2, 0}) {
      double rest = results_[i];
      for (int j = 0; j < kTerms; ++j) rest -= j == i ? 0 : products_[i][j] * factors_[j];
      const double square = products_[i][i] * (i == 0 ? 1 + kRidge : 1);
      factors_[i] = square > 0 ? std::max(0.0, rest / square) : 0;
    }
  }
}

// The positive root of fixed + rows per_row(first_place + rows / 2) = seconds.
double ChunkCost::RowsWithin(double seconds, double first_place) const {
  const double room = seconds - factors_[0], first = PerRow(first_place);
  if (room <= 0) return 0;
  const double root = std::sqrt(first * first + 2 * factors_[2] * room);
  return first + root > 0 ? 2 * room / (first + root) : HUGE_VAL;
}

// rows / (fixed + per_row rows) = share max_rows / (fixed + per_row max_rows), solved for rows.
double ChunkCost::RowsForRate(double share, double first_place, int32_t max_rows) const {
  const double price = factors_[0] + (1 - share) * PerRow(first_place) * max_rows;
  return price > 0 ? share * max_rows * factors_[0] / price : 0;
}

}  // namespace sessa
