// Sixteen floats in one AVX-512 register. Included only by translation units compiled for AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace sessa::cpu {
namespace {  // each translation unit its own: no code for one CPU may be linked into another's

// The instruction sets (Avx512, Avx512Bf16, Avx2, Portable) offer the same functions on vectors of 16 lanes;
// the kernels are templates over them. `n` is a count of valid lanes, 1..16 (0 where it says so): other lanes
// read as zero and are not written. Sums over lanes always add in the order lane ^ 8, ^ 4, ^ 2, ^ 1.
struct Avx512 {
  using Vec = __m512;
  static constexpr int kTileRows = 6;  // of a matrix product's register tile
  static constexpr int kTileVecs = 4;
  static constexpr int kStreamVecs = 24;  // accumulators of one row that streams values
  static constexpr bool kHasBF16Dot = false;

  static __mmask16 Mask(int n) { return static_cast<__mmask16>((1u << n) - 1); }

  static Vec Zero() { return _mm512_setzero_ps(); }
  static Vec Set(float value) { return _mm512_set1_ps(value); }
  static Vec Load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec Load(const float* p, int n) { return _mm512_maskz_loadu_ps(Mask(n), p); }
  static void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static void Store(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, Mask(n), v); }

  static Vec LoadBF16(const uint16_t* p) {
    return FromBF16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec LoadBF16(const uint16_t* p, int n) { return FromBF16(_mm256_maskz_loadu_epi16(Mask(n), p)); }
  static Vec LoadFP16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec LoadFP16(const uint16_t* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(Mask(n), p));
  }
  static void StoreBF16(uint16_t* p, Vec v, int n) { _mm256_mask_storeu_epi16(p, Mask(n), ToBF16(v)); }
  // Out of range: +-65504; NaN stays NaN.
  static void StoreFP16(uint16_t* p, Vec v, int n) {
    const Vec bounded =
        _mm512_max_ps(Set(-65504.0f), _mm512_min_ps(Set(65504.0f), v));  // NaN: the second operand
    _mm256_mask_storeu_epi16(p, Mask(n),
                             _mm512_cvtps_ph(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static int CountFP16Saturations(Vec v, int n) {
    return __builtin_popcount(_mm512_mask_cmp_ps_mask(Mask(n), _mm512_abs_ps(v), Set(65520.0f), _CMP_GE_OQ));
  }

  static Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  static Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }  // a b + c
  static Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec Abs(Vec v) { return _mm512_abs_ps(v); }
  // Lanes n.. become `other`; n may be 0.
  static Vec Keep(Vec v, int n, Vec other) { return _mm512_mask_mov_ps(other, Mask(n), v); }
  static Vec SwapPairs(Vec v) { return _mm512_permute_ps(v, 0xb1); }
  static Vec Round(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Vec ScaleByPowerOf2(Vec v, Vec integer) { return _mm512_scalef_ps(v, integer); }

  static float ReduceAdd(Vec v) {
    v = Add(v, _mm512_shuffle_f32x4(v, v, 0x4e));
    v = Add(v, _mm512_shuffle_f32x4(v, v, 0xb1));
    v = Add(v, _mm512_permute_ps(v, 0x4e));
    v = Add(v, _mm512_permute_ps(v, 0xb1));
    return _mm512_cvtss_f32(v);
  }
  static float ReduceMax(Vec v) {
    v = Max(v, _mm512_shuffle_f32x4(v, v, 0x4e));
    v = Max(v, _mm512_shuffle_f32x4(v, v, 0xb1));
    v = Max(v, _mm512_permute_ps(v, 0x4e));
    v = Max(v, _mm512_permute_ps(v, 0xb1));
    return _mm512_cvtss_f32(v);
  }
  // Lane i of the result is ReduceAdd(v[i]).
  static Vec ReduceAdd16(const Vec* v) {
    Vec quarters[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vec low = AddHalves(v[i], v[4 + i]), high = AddHalves(v[8 + i], v[12 + i]);
      quarters[i] = Add(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
    }
    const Vec even = AddPairs(quarters[0], quarters[1]), odd = AddPairs(quarters[2], quarters[3]);
    const __m512d e = _mm512_castps_pd(even), o = _mm512_castps_pd(odd);
    return Add(_mm512_castpd_ps(_mm512_unpacklo_pd(e, o)), _mm512_castpd_ps(_mm512_unpackhi_pd(e, o)));
  }

 private:
  static Vec FromBF16(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __m256i ToBF16(Vec v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
  }
  static Vec AddHalves(Vec a, Vec b) {
    return Add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  static Vec AddPairs(Vec a, Vec b) { return Add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); }
};

}  // namespace
}  // namespace sessa::cpu
