// Elementary functions on vectors of an instruction set S.
#pragma once

namespace sessa::cpu {

// 2^x for x <= 0, to 1e-7 relative; 0 below 2^-126 or so; NaN stays NaN.
template <class S>
inline typename S::Vec Exp2(typename S::Vec x) {
  x = S::Max(S::Set(-200.0f), x);
  const auto integer = S::Round(x);
  const auto f = S::Sub(x, integer);  // -1/2 .. 1/2
  // (2^f - 1) / f, interpolated at Chebyshev nodes: 5e-9.
  auto p = S::Set(0x1.4413896c32413p-13f);
  p = S::Fma(p, f, S::Set(0x1.5f0890162562dp-10f));
  p = S::Fma(p, f, S::Set(0x1.3b2a530454de3p-7f));
  p = S::Fma(p, f, S::Set(0x1.c6af6cdbbdd3ap-5f));
  p = S::Fma(p, f, S::Set(0x1.ebfbe00e63b49p-3f));
  p = S::Fma(p, f, S::Set(0x1.62e4302fc626dp-1f));
  p = S::Fma(p, f, S::Set(1.0f));
  return S::ScaleByPowerOf2(p, integer);
}

// GELU(x) = x Phi(x) = max(x, 0) - |x| Phi(-|x|), the exact (erf) form. Phi(-y) = exp(-y^2 / 2) t P(t) with
// t = 1 / (1 + 0.24 y); P is interpolated at Chebyshev nodes for 0 <= y <= 13: 4e-9.
template <class S>
inline typename S::Vec Gelu(typename S::Vec x) {
  const auto y = S::Abs(x);
  const auto t = S::Div(S::Set(1.0f), S::Fma(S::Set(0.24f), y, S::Set(1.0f)));
  auto p = S::Set(0.02534155277337325f);
  p = S::Fma(p, t, S::Set(-0.12362834150209984f));
  p = S::Fma(p, t, S::Set(0.20308122987007862f));
  p = S::Fma(p, t, S::Set(-0.1410185858371955f));
  p = S::Fma(p, t, S::Set(0.13868185322681056f));
  p = S::Fma(p, t, S::Set(0.029690222328808594f));
  p = S::Fma(p, t, S::Set(0.08720831298322476f));
  p = S::Fma(p, t, S::Set(0.08905962143081252f));
  p = S::Fma(p, t, S::Set(0.09584116794534679f));
  p = S::Fma(p, t, S::Set(0.095742968067004f));
  const auto gauss = Exp2<S>(S::Mul(S::Mul(y, S::Set(-0.72134752044448170368f)), y));
  return S::Sub(S::Max(S::Zero(), x), S::Mul(y, S::Mul(gauss, S::Mul(t, p))));
}

}  // namespace sessa::cpu
