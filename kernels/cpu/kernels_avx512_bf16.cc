#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/table.inl.h"

namespace sessa::cpu {
namespace {

// AVX-512 with the dot product of bf16 pairs (which takes subnormal numbers for zeros).
struct Avx512BF16 : Avx512 {
  using Pairs = __m512bh;  // 32 bf16
  static constexpr bool kHasBF16Dot = true;

  static Pairs LoadPairs(const uint16_t* p) { return reinterpret_cast<Pairs>(_mm512_loadu_si512(p)); }
  static Pairs LoadPairs(const uint16_t* p, int n) {
    return reinterpret_cast<Pairs>(_mm512_maskz_loadu_epi16((1u << n) - 1, p));
  }
  static Pairs SetPair(const uint16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return reinterpret_cast<Pairs>(_mm512_set1_epi32(pair));
  }
  static Vec DotPairs(Vec acc, Pairs a, Pairs b) { return _mm512_dpbf16_ps(acc, a, b); }
  static void StoreBF16(uint16_t* p, Vec v, int n) {
    _mm256_mask_storeu_epi16(p, Mask(n), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
  }
};

}  // namespace

const Kernels& Avx512BF16Kernels() {
  static constexpr Kernels kKernels = MakeKernels<Avx512BF16, uint16_t>("AVX512-BF16");
  return kKernels;
}

}  // namespace sessa::cpu
