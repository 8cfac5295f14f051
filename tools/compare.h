// How far two tensors are apart, and how far they may be. Norms are Euclidean.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace sessa {

struct RelativeError {
  double tensor = 0;  // |actual - expected| / |expected| of the whole tensor
  double row = 0;     // the same of the worst single row

  void Include(const RelativeError& other);  // the worse of both
};

struct Tolerance {
  double tensor = 0;
  double row = 0;

  bool Accepts(const RelativeError& error) const;  // false for NaN
};

// Float32 weights, arithmetic and state against float64: an independent implementation reaches 2.3e-6
// (1.2e-5), the smallest mistake that must be seen (s in fp16) makes 2e-5.
inline constexpr Tolerance kFloat32Tolerance = {5e-6, 5e-5};

// Rows of `width` numbers; both spans have the same size. NaN where NaN was not expected gives NaN.
RelativeError Compare(absl::Span<const float> actual, absl::Span<const float> expected, int64_t width);

}  // namespace sessa
