// Sixteen floats as an array: any CPU, any compiler. What each function does is said in simd_avx512.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/half.h"

namespace sessa::cpu {
namespace {  // each translation unit its own: no code for one CPU may be linked into another's

struct Portable {
  struct Vec {
    float lane[16];
  };
  static constexpr int kTileRows = 2;
  static constexpr int kTileVecs = 1;
  static constexpr int kStreamVecs = 4;
  static constexpr bool kHasBF16Dot = false;

  template <class F>
  static Vec Make(F lane) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = lane(i);
    return v;
  }
  static Vec Zero() { return Set(0.0f); }
  static Vec Set(float value) {
    return Make([=](int) { return value; });
  }
  static Vec Load(const float* p) {
    return Make([=](int i) { return p[i]; });
  }
  static Vec Load(const float* p, int n) {
    return Make([=](int i) { return i < n ? p[i] : 0.0f; });
  }
  static void Store(float* p, const Vec& v) { Store(p, v, 16); }
  static void Store(float* p, const Vec& v, int n) {
    for (int i = 0; i < n; ++i) p[i] = v.lane[i];
  }
  static Vec LoadBF16(const uint16_t* p, int n = 16) {
    return Make([=](int i) { return i < n ? BF16ToFloat(p[i]) : 0.0f; });
  }
  static Vec LoadFP16(const uint16_t* p, int n = 16) {
    return Make([=](int i) { return i < n ? FP16ToFloat(p[i]) : 0.0f; });
  }
  static void StoreBF16(uint16_t* p, const Vec& v, int n) {
    for (int i = 0; i < n; ++i) p[i] = FloatToBF16(v.lane[i]);
  }
  static void StoreFP16(uint16_t* p, const Vec& v, int n) {
    for (int i = 0; i < n; ++i) p[i] = FloatToFP16(v.lane[i]);
  }
  static int CountFP16Saturations(const Vec& v, int n) {
    int count = 0;
    for (int i = 0; i < n; ++i) count += SaturatesFP16(v.lane[i]);
    return count;
  }

  static Vec Add(const Vec& a, const Vec& b) {
    return Make([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static Vec Sub(const Vec& a, const Vec& b) {
    return Make([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static Vec Mul(const Vec& a, const Vec& b) {
    return Make([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static Vec Div(const Vec& a, const Vec& b) {
    return Make([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static Vec Fma(const Vec& a, const Vec& b, const Vec& c) {  // rounds twice, always
    return Make([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static Vec Max(const Vec& a, const Vec& b) {
    return Make([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Vec Abs(const Vec& v) {
    return Make([&](int i) { return std::fabs(v.lane[i]); });
  }
  static Vec Keep(const Vec& v, int n, const Vec& other) {
    return Make([&](int i) { return i < n ? v.lane[i] : other.lane[i]; });
  }
  static Vec SwapPairs(const Vec& v) {
    return Make([&](int i) { return v.lane[i ^ 1]; });
  }
  static Vec Round(const Vec& v) {
    return Make([&](int i) { return std::nearbyint(v.lane[i]); });
  }
  static Vec ScaleByPowerOf2(const Vec& v, const Vec& integer) {
    return Make([&](int i) {
      const bool in_range = integer.lane[i] > -150.0f;  // false for NaN, which v is then too
      return std::ldexp(v.lane[i], in_range ? static_cast<int>(integer.lane[i]) : -1000);
    });
  }

  static float ReduceAdd(Vec v) {
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) v.lane[i] += v.lane[i + half];
    }
    return v.lane[0];
  }
  static float ReduceMax(Vec v) {
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) v.lane[i] = v.lane[i] > v.lane[i + half] ? v.lane[i] : v.lane[i + half];
    }
    return v.lane[0];
  }
  static Vec ReduceAdd16(const Vec* v) {
    return Make([=](int i) { return ReduceAdd(v[i]); });
  }
};

}  // namespace
}  // namespace sessa::cpu
