// The vectors every kernel is written with: 16 floats (Vec) or 16 int32 (Int), whatever registers the level has.
//
// One file per level defines the same names inside codellama::CODELLAMA_LEVEL; a file in levels/ is compiled once
// per level and sees exactly one of them. Loads and stores need no alignment.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

namespace codellama {

// bfloat16 as it lies in memory: the upper half of a float32.
using Bfloat16 = uint16_t;

// Floats in a Vec, and rows in a tile of packed weights.
constexpr int kLanes = 16;

inline float to_float(Bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Round to nearest, ties to even; NaN stays NaN.
inline Bfloat16 to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Bfloat16>((bits >> 16) | 0x40u);
  return static_cast<Bfloat16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace codellama

#if defined(CODELLAMA_AVX512)
#include "simd_avx512.h"
#elif defined(CODELLAMA_AVX2)
#include "simd_avx2.h"
#elif defined(CODELLAMA_NEON)
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif

#include "simd_math.h"
