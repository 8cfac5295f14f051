#include "loadtest/distribution.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sessa {

absl::StatusOr<Distribution> Distribution::Parse(absl::string_view text) {
  std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  Distribution d;
  d.text_ = std::string(text);
  double number = 0;
  if (parts.size() == 1 && absl::SimpleAtod(parts[0], &number)) parts.insert(parts.begin(), "fixed");
  const absl::string_view kind = parts[0];
  std::vector<double> numbers;
  for (size_t i = 1; i < parts.size(); ++i) {
    if (!absl::SimpleAtod(parts[i], &number) || !(number >= 0 && number <= kMost)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", parts[i], "' in '", text, "' is not a number in [0, 1e9]"));
    }
    numbers.push_back(number);
  }
  if (kind == "fixed" && numbers.size() == 1) {
    d.kind_ = Kind::kFixed;
  } else if (kind == "uniform" && numbers.size() == 2 && numbers[0] <= numbers[1]) {
    d.kind_ = Kind::kUniform;
  } else if (kind == "exponential" && numbers.size() == 1) {
    d.kind_ = Kind::kExponential;
  } else if (kind == "lognormal" && (numbers.size() == 2 || numbers.size() == 3) && numbers[0] > 0) {
    d.kind_ = Kind::kLogNormal;
    d.max_ = numbers.size() == 3 ? numbers[2] : 0;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", text,
        "' is none of N, fixed:N, uniform:LOW:HIGH, exponential:MEAN, lognormal:MEDIAN:SIGMA[:MAX]"));
  }
  d.a_ = numbers[0];
  d.b_ = numbers.size() > 1 ? numbers[1] : 0;
  return d;
}

double Distribution::Sample(Random* random) const {
  switch (kind_) {
    case Kind::kFixed:
      return a_;
    case Kind::kUniform:
      return a_ + (b_ - a_) * random->Uniform();
    case Kind::kExponential:
      return std::min(a_ * random->Exponential(), kMost);
    case Kind::kLogNormal:
      return std::min({a_ * std::exp(b_ * random->Normal()), max(), kMost});
  }
  return 0;
}

int64_t Distribution::SampleInteger(Random* random) const {
  if (kind_ == Kind::kUniform) return random->Integer(std::llround(a_), std::llround(b_));
  return std::llround(Sample(random));
}

double Distribution::max() const {
  if (kind_ == Kind::kFixed) return a_;
  if (kind_ == Kind::kUniform) return b_;
  return max_ > 0 ? max_ : std::numeric_limits<double>::infinity();
}

}  // namespace sessa
