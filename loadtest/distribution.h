// Distributions that scenarios are written in.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "loadtest/random.h"

namespace sessa {

// A number in [0, kMost] at random: a length in tokens, or a time in seconds. Immutable.
class Distribution {
 public:
  static constexpr double kMost = 1e9;  // fits an int32; what an unbounded distribution gives is cut there
  Distribution() = default;             // always 0

  // "128" or "fixed:128"; "uniform:16:256"; "exponential:MEAN"; "lognormal:MEDIAN:SIGMA[:MAX]", SIGMA being
  // the deviation of the logarithm. INVALID_ARGUMENT says what is wrong, a number above kMost included.
  static absl::StatusOr<Distribution> Parse(absl::string_view text);

  double Sample(Random* random) const;
  int64_t SampleInteger(Random* random) const;  // rounded
  double max() const;                           // infinite where there is none
  const std::string& text() const { return text_; }

 private:
  enum class Kind { kFixed, kUniform, kExponential, kLogNormal };
  Kind kind_ = Kind::kFixed;
  double a_ = 0, b_ = 0;  // value; low and high; mean; median and sigma
  double max_ = 0;        // of kLogNormal; 0: none
  std::string text_ = "0";
};

}  // namespace sessa
