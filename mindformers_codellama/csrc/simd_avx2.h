// Vec and Int in two AVX2 registers each (with FMA).
#pragma once

#include <immintrin.h>

namespace codellama::CODELLAMA_LEVEL {

struct Vec {
  __m256 lo, hi;
};
struct Int {
  __m256i lo, hi;
};

// All bits of the lanes below `count` (0 to 8).
inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
// The first `count` lanes (0 to 16); the others are 0 and no memory behind them is touched.
inline Vec load_first(const float* p, int count) {
  return {_mm256_maskload_ps(p, first_lanes(count)), _mm256_maskload_ps(p + 8, first_lanes(count - 8))};
}
inline void store_first(float* p, Vec a, int count) {
  _mm256_maskstore_ps(p, first_lanes(count), a.lo);
  _mm256_maskstore_ps(p + 8, first_lanes(count - 8), a.hi);
}

inline __m256 widen(__m128i halves) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16)); }
inline Vec load(const Bfloat16* p) {
  return {widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline Vec load_first(const Bfloat16* p, int count) {
  Bfloat16 copy[kLanes] = {};
  std::memcpy(copy, p, sizeof(Bfloat16) * count);
  return load(copy);
}
inline __m128i narrow(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff)), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i result = _mm256_blendv_epi8(rounded, quiet, is_nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
}
inline void store(Bfloat16* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(a.lo));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), narrow(a.hi));
}
inline void store_first(Bfloat16* p, Vec a, int count) {
  Bfloat16 copy[kLanes];
  store(copy, a);
  std::memcpy(p, copy, sizeof(Bfloat16) * count);
}

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
// a * b + c
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
// b where either is NaN.
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Vec abs(Vec a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
// To the nearest integer, ties to even.
inline Vec round(Vec a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
}
inline float sum(Vec a) {
  const __m256 both = _mm256_add_ps(a.lo, a.hi);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float largest(Vec a) {
  const __m256 both = _mm256_max_ps(a.lo, a.hi);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline __m256 power_of_two(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
// 2^n of integers n in [-126, 127].
inline Vec power_of_two(Vec n) { return {power_of_two(n.lo), power_of_two(n.hi)}; }

inline Int zero_int() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Int broadcast_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Int operator+(Int a, Int b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline Vec to_float(Int a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }

inline __m256 dot_pairs(__m256 c, __m256i a, __m256 even, __m256 odd) {
  const __m256 low = _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
  const __m256 high = _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  return _mm256_fmadd_ps(high, odd, _mm256_fmadd_ps(low, even, c));
}
// c[i] + a[2i] * b[0] + a[2i + 1] * b[1]: 16 pairs of bf16 times one pair, in fp32.
inline Vec dot_pairs(Vec c, const Bfloat16* a, const Bfloat16* b) {
  const __m256 even = _mm256_set1_ps(codellama::to_float(b[0]));
  const __m256 odd = _mm256_set1_ps(codellama::to_float(b[1]));
  return {dot_pairs(c.lo, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)), even, odd),
          dot_pairs(c.hi, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + 16)), even, odd)};
}

// To the nearest integer, ties to even; of values within int32.
inline Int nearest_int(Vec a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
inline int32_t sum(Int a) {
  const __m256i both = _mm256_add_epi32(a.lo, a.hi);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
// The low byte of each lane; of values within int8.
inline void store_bytes(int8_t* p, Int a) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

// 64 packed weights of 16 rows and 4 columns, in the order [16][4].
struct Bytes {
  __m256i lo, hi;
};
inline Bytes load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline __m256i nibbles(__m256i a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
inline Bytes low_nibbles(Bytes a) { return {nibbles(a.lo), nibbles(a.hi)}; }
inline Bytes high_nibbles(Bytes a) { return {nibbles(_mm256_srli_epi16(a.lo, 4)), nibbles(_mm256_srli_epi16(a.hi, 4))}; }
inline __m256i broadcast_four(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  return _mm256_set1_epi32(four);
}
inline __m256i add_dot(__m256i c, __m256i w, __m256i x) {
  return _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}
// |q| times x with the sign of q: both within [-127, 127], so a pair is at most 32258 and the int16 between never saturates.
inline __m256i add_signed_dot(__m256i c, __m256i w, __m256i x) {
  const __m256i q = _mm256_xor_si256(w, _mm256_set1_epi8(static_cast<char>(0x80)));
  return add_dot(c, _mm256_abs_epi8(q), _mm256_sign_epi8(x, q));
}
// What a sum of dot_bytes (or dot_nibbles) over a group begins with, given the sum of the inputs of the group.
inline Int start_bytes(int32_t) { return zero_int(); }
inline Int start_nibbles(int32_t sum) { return broadcast_int(-8 * sum); }
// c[i] + the sum over 4 columns of (w[i][j] - 128) * x[j], once start_bytes is in c. dot_nibbles: w[i][j] - 8.
inline Int dot_bytes(Int c, Bytes w, const int8_t* x) {
  const __m256i four = broadcast_four(x);
  return {add_signed_dot(c.lo, w.lo, four), add_signed_dot(c.hi, w.hi, four)};
}
inline Int dot_nibbles(Int c, Bytes w, const int8_t* x) {
  const __m256i four = broadcast_four(x);
  return {add_dot(c.lo, w.lo, four), add_dot(c.hi, w.hi, four)};
}

// Lane i of the result holds the bits of bf16(even[i]) below those of bf16(odd[i]): a pair for dot_pairs.
inline Vec interleave_bfloat16(Vec even, Vec odd) {
  const __m128i even_lo = narrow(even.lo), even_hi = narrow(even.hi), odd_lo = narrow(odd.lo), odd_hi = narrow(odd.hi);
  return {_mm256_castsi256_ps(_mm256_set_m128i(_mm_unpackhi_epi16(even_lo, odd_lo), _mm_unpacklo_epi16(even_lo, odd_lo))),
          _mm256_castsi256_ps(_mm256_set_m128i(_mm_unpackhi_epi16(even_hi, odd_hi), _mm_unpacklo_epi16(even_hi, odd_hi)))};
}
// 32 values rounded to bf16, as 16 lanes of two: what storing `first` and `second` one after the other gives.
inline Vec join_bfloat16(Vec first, Vec second) {
  return {_mm256_castsi256_ps(_mm256_set_m128i(narrow(first.hi), narrow(first.lo))),
          _mm256_castsi256_ps(_mm256_set_m128i(narrow(second.hi), narrow(second.lo)))};
}
// Lane j of rows[i] goes to lane i of rows[j], of 8 registers.
inline void transpose(__m256* rows) {
  __m256d pairs[8];
  for (int i = 0; i < 8; i += 4) {
    const __m256 a = _mm256_unpacklo_ps(rows[i], rows[i + 1]), b = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    const __m256 c = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]), d = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
    pairs[i] = _mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(c));
    pairs[i + 1] = _mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(c));
    pairs[i + 2] = _mm256_unpacklo_pd(_mm256_castps_pd(b), _mm256_castps_pd(d));
    pairs[i + 3] = _mm256_unpackhi_pd(_mm256_castps_pd(b), _mm256_castps_pd(d));
  }
  for (int j = 0; j < 4; ++j) {
    rows[j] = _mm256_permute2f128_ps(_mm256_castpd_ps(pairs[j]), _mm256_castpd_ps(pairs[4 + j]), 0x20);
    rows[4 + j] = _mm256_permute2f128_ps(_mm256_castpd_ps(pairs[j]), _mm256_castpd_ps(pairs[4 + j]), 0x31);
  }
}
// Lane j of rows[i] goes to lane i of rows[j]; `rows` has 16.
inline void transpose(Vec* rows) {
  __m256 quarters[4][8];
  for (int i = 0; i < 8; ++i) {
    quarters[0][i] = rows[i].lo;
    quarters[1][i] = rows[i].hi;
    quarters[2][i] = rows[8 + i].lo;
    quarters[3][i] = rows[8 + i].hi;
  }
  for (__m256* quarter : quarters) transpose(quarter);
  for (int i = 0; i < 8; ++i) {
    rows[i] = {quarters[0][i], quarters[2][i]};
    rows[8 + i] = {quarters[1][i], quarters[3][i]};
  }
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
inline void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace codellama::CODELLAMA_LEVEL
