// A small generator whose sequence is the same everywhere, unlike the standard library's distributions.
#pragma once

#include <cmath>
#include <cstdint>

namespace sessa {

// splitmix64 (Steele, Lea, Flood 2014). One thread.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }  // in [0, 1)
  int64_t Integer(int64_t low, int64_t high) {                              // in [low, high]
    return low + static_cast<int64_t>(Uniform() * static_cast<double>(high - low + 1));
  }
  double Exponential() { return -std::log1p(-Uniform()); }  // mean 1
  double Normal() {                                         // mean 0, deviation 1 (Box and Muller)
    const double radius = std::sqrt(2 * Exponential());
    return radius * std::cos(2 * 3.14159265358979323846 * Uniform());
  }

 private:
  uint64_t state_;
};

}  // namespace sessa
