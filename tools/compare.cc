#include "tools/compare.h"

#include <cassert>
#include <cmath>
#include <limits>

namespace sessa {
namespace {

// Larger of two errors, where NaN counts as larger than anything.
double Worse(double a, double b) { return std::isnan(a) || a > b ? a : b; }

double Ratio(double difference, double norm) {
  if (norm > 0) return std::sqrt(difference / norm);
  return difference == 0 ? 0 : std::numeric_limits<double>::infinity();
}

}  // namespace

void RelativeError::Include(const RelativeError& other) {
  tensor = Worse(other.tensor, tensor);
  row = Worse(other.row, row);
}

bool Tolerance::Accepts(const RelativeError& error) const {
  return error.tensor <= tensor && error.row <= row;
}

RelativeError Compare(absl::Span<const float> actual, absl::Span<const float> expected, int64_t width) {
  assert(actual.size() == expected.size() && actual.size() % width == 0);
  RelativeError error;
  double all_difference = 0, all_norm = 0;
  for (size_t first = 0; first < actual.size(); first += width) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < width; ++i) {
      const double e = expected[first + i], d = actual[first + i] - e;
      difference += d * d;
      norm += e * e;
    }
    error.row = Worse(Ratio(difference, norm), error.row);
    all_difference += difference;
    all_norm += norm;
  }
  error.tensor = Ratio(all_difference, all_norm);
  return error;
}

}  // namespace sessa
