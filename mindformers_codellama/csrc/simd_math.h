// Functions of Vec that are the same at every level.
#pragma once

namespace codellama::CODELLAMA_LEVEL {

// e^x, relative error below 2e-7 for x in [-87, 88]; below it 0 is approached (1.2e-38), above it 88 is taken; NaN stays NaN.
// Cody and Waite reduction by ln 2 and the Taylor polynomial of degree 7 on [-ln2/2, ln2/2].
inline Vec exp(Vec x) {
  x = min(broadcast(88.0f), max(broadcast(-87.0f), x));  // in this order: of a NaN, min and max give their second argument
  const Vec n = round(x * broadcast(1.44269504f));
  Vec r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec p = broadcast(1.0f / 5040.0f);
  p = fma(p, r, broadcast(1.0f / 720.0f));
  p = fma(p, r, broadcast(1.0f / 120.0f));
  p = fma(p, r, broadcast(1.0f / 24.0f));
  p = fma(p, r, broadcast(1.0f / 6.0f));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, r, broadcast(1.0f));
  p = fma(p, r, broadcast(1.0f));
  return p * power_of_two(n);
}

// x / (1 + e^-x)
inline Vec silu(Vec x) { return x / (broadcast(1.0f) + exp(zero() - x)); }

}  // namespace codellama::CODELLAMA_LEVEL
