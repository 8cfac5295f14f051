// Sixteen floats in two AVX2 registers (with FMA and F16C). Included only by a translation unit compiled for
// them. What each function does is said in simd_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace sessa::cpu {
namespace {  // each translation unit its own: no code for one CPU may be linked into another's

struct Avx2 {
  struct Vec {
    __m256 low, high;  // lanes 0..7 and 8..15
  };
  static constexpr int kTileRows = 6;
  static constexpr int kTileVecs = 1;
  static constexpr int kStreamVecs = 4;
  static constexpr bool kHasBF16Dot = false;

  static Vec Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec Set(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Vec Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Vec Load(const float* p, int n) {
    const __m256i low = Mask(n), high = Mask(n - 8);
    return {_mm256_maskload_ps(p, low), n > 8 ? _mm256_maskload_ps(p + 8, high) : _mm256_setzero_ps()};
  }
  static void Store(float* p, Vec v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
  static void Store(float* p, Vec v, int n) {
    _mm256_maskstore_ps(p, Mask(n), v.low);
    if (n > 8) _mm256_maskstore_ps(p + 8, Mask(n - 8), v.high);
  }

  static Vec LoadBF16(const uint16_t* p) { return {FromBF16(Load8(p)), FromBF16(Load8(p + 8))}; }
  static Vec LoadBF16(const uint16_t* p, int n) {
    const Halves h(p, n);
    return LoadBF16(h.numbers);
  }
  static Vec LoadFP16(const uint16_t* p) {
    return {_mm256_cvtph_ps(Load8(p)), _mm256_cvtph_ps(Load8(p + 8))};
  }
  static Vec LoadFP16(const uint16_t* p, int n) {
    const Halves h(p, n);
    return LoadFP16(h.numbers);
  }
  static void StoreBF16(uint16_t* p, Vec v, int n) { StoreHalves(p, ToBF16(v.low), ToBF16(v.high), n); }
  static void StoreFP16(uint16_t* p, Vec v, int n) {
    const auto convert = [](__m256 x) {
      const __m256 bounded =
          _mm256_max_ps(_mm256_set1_ps(-65504.0f), _mm256_min_ps(_mm256_set1_ps(65504.0f), x));
      return _mm256_cvtps_ph(bounded, _MM_FROUND_TO_NEAREST_INT);
    };
    StoreHalves(p, convert(v.low), convert(v.high), n);
  }
  static int CountFP16Saturations(Vec v, int n) {
    const auto bits = [](__m256 x) {
      return _mm256_movemask_ps(_mm256_cmp_ps(AbsHalf(x), _mm256_set1_ps(65520.0f), _CMP_GE_OQ));
    };
    return __builtin_popcount((bits(v.low) | bits(v.high) << 8) & ((1 << n) - 1));
  }

  static Vec Add(Vec a, Vec b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Vec Sub(Vec a, Vec b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static Vec Mul(Vec a, Vec b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static Vec Div(Vec a, Vec b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static Vec Fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Vec Max(Vec a, Vec b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static Vec Abs(Vec v) { return {AbsHalf(v.low), AbsHalf(v.high)}; }
  static Vec Keep(Vec v, int n, Vec other) {
    return {_mm256_blendv_ps(other.low, v.low, _mm256_castsi256_ps(Mask(n))),
            _mm256_blendv_ps(other.high, v.high, _mm256_castsi256_ps(Mask(n - 8)))};
  }
  static Vec SwapPairs(Vec v) { return {_mm256_permute_ps(v.low, 0xb1), _mm256_permute_ps(v.high, 0xb1)}; }
  static Vec Round(Vec v) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(v.low, kNearest), _mm256_round_ps(v.high, kNearest)};
  }
  static Vec ScaleByPowerOf2(Vec v, Vec integer) {
    return {ScaleHalf(v.low, integer.low), ScaleHalf(v.high, integer.high)};
  }

  static float ReduceAdd(Vec v) {
    const __m256 eight = _mm256_add_ps(v.low, v.high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_permute_ps(four, 0x4e));
    return _mm_cvtss_f32(_mm_add_ps(four, _mm_permute_ps(four, 0xb1)));
  }
  static float ReduceMax(Vec v) {
    const __m256 eight = _mm256_max_ps(v.low, v.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_permute_ps(four, 0x4e));
    return _mm_cvtss_f32(_mm_max_ps(four, _mm_permute_ps(four, 0xb1)));
  }
  static Vec ReduceAdd16(const Vec* v) {
    alignas(32) float sums[16];
    for (int i = 0; i < 16; ++i) sums[i] = ReduceAdd(v[i]);
    return Load(sums);
  }

 private:
  struct Halves {  // n numbers of 16 bits, the rest zero
    uint16_t numbers[16] = {};
    Halves(const uint16_t* p, int n) { __builtin_memcpy(numbers, p, 2 * n); }
  };
  static __m256i Mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m128i Load8(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static __m256 FromBF16(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static __m128i ToBF16(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i kept = _mm256_srli_epi32(
        _mm256_blendv_epi8(rounded, nan, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q))), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
  }
  static void StoreHalves(uint16_t* p, __m128i low, __m128i high, int n) {
    if (n == 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), low);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), high);
      return;
    }
    uint16_t numbers[16];
    StoreHalves(numbers, low, high, 16);
    __builtin_memcpy(p, numbers, 2 * n);
  }
  static __m256 AbsHalf(__m256 v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
  // For integer <= 0, as softmax needs it: below 2^-126 the result is zero. A NaN v stays.
  static __m256 ScaleHalf(__m256 v, __m256 integer) {
    const __m256 normal = _mm256_cmp_ps(integer, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ);
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(_mm256_and_ps(integer, normal)), 23);
    const __m256 scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), exponent));
    return _mm256_and_ps(scaled, normal);
  }
};

}  // namespace
}  // namespace sessa::cpu
