// Vec and Int in one AVX-512 register each (F, BW, DQ, VL, VNNI and BF16).
#pragma once

#include <immintrin.h>

namespace codellama::CODELLAMA_LEVEL {

struct Vec {
  __m512 v;
};
// int32 lanes as the compiler's own type: passing them through __m512i costs copies of registers in loops.
using Int32s = int32_t __attribute__((vector_size(64)));
struct Int {
  Int32s v;
};

inline __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
// The first `count` lanes (0 to 16); the others are 0 and no memory behind them is touched.
inline Vec load_first(const float* p, int count) { return {_mm512_maskz_loadu_ps(first_lanes(count), p)}; }
inline void store_first(float* p, Vec a, int count) { _mm512_mask_storeu_ps(p, first_lanes(count), a.v); }

inline Vec widen(__m256i halves) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))}; }
inline Vec load(const Bfloat16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vec load_first(const Bfloat16* p, int count) { return widen(_mm256_maskz_loadu_epi16(first_lanes(count), p)); }
inline __m256i narrow(Vec a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff)), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, is_nan, quiet));
}
inline void store(Bfloat16* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a)); }
inline void store_first(Bfloat16* p, Vec a, int count) { _mm256_mask_storeu_epi16(p, first_lanes(count), narrow(a)); }

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
// a * b + c
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// b where either is NaN.
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
// To the nearest integer, ties to even.
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(Vec a) { return _mm512_reduce_max_ps(a.v); }
// 2^n of integers n in [-126, 127].
inline Vec power_of_two(Vec n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}

inline Int zero_int() { return {reinterpret_cast<Int32s>(_mm512_setzero_si512())}; }
inline Int broadcast_int(int32_t x) { return {reinterpret_cast<Int32s>(_mm512_set1_epi32(x))}; }
inline Int operator+(Int a, Int b) { return {a.v + b.v}; }
inline Vec to_float(Int a) { return {_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(a.v))}; }

// c[i] + a[2i] * b[0] + a[2i + 1] * b[1]: 16 pairs of bf16 times one pair, in fp32.
inline Vec dot_pairs(Vec c, const Bfloat16* a, const Bfloat16* b) {
  int32_t pair;
  std::memcpy(&pair, b, sizeof(pair));
  return {_mm512_dpbf16_ps(c.v, reinterpret_cast<__m512bh>(_mm512_loadu_si512(a)), reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)))};
}

// To the nearest integer, ties to even; of values within int32.
inline Int nearest_int(Vec a) { return {reinterpret_cast<Int32s>(_mm512_cvtps_epi32(a.v))}; }
inline int32_t sum(Int a) { return _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(a.v)); }
// The low byte of each lane; of values within int8.
inline void store_bytes(int8_t* p, Int a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(a.v))); }

// 64 packed weights of 16 rows and 4 columns, in the order [16][4].
struct Bytes {
  __m512i v;
};
inline Bytes load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline Bytes low_nibbles(Bytes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline Bytes high_nibbles(Bytes a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
inline __m512i broadcast_four(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  return _mm512_set1_epi32(four);
}
// What a sum of dot_bytes (or dot_nibbles) over a group begins with, given the sum of the inputs of the group.
inline Int start_bytes(int32_t sum) { return {reinterpret_cast<Int32s>(_mm512_set1_epi32(-128 * sum))}; }
inline Int start_nibbles(int32_t sum) { return {reinterpret_cast<Int32s>(_mm512_set1_epi32(-8 * sum))}; }
// c[i] + the sum over 4 columns of (w[i][j] - 128) * x[j], once start_bytes is in c. dot_nibbles: w[i][j] - 8.
inline Int dot_bytes(Int c, Bytes w, const int8_t* x) { return {reinterpret_cast<Int32s>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(c.v), w.v, broadcast_four(x)))}; }
inline Int dot_nibbles(Int c, Bytes w, const int8_t* x) { return {reinterpret_cast<Int32s>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(c.v), w.v, broadcast_four(x)))}; }

// Lane i of the result holds the bits of bf16(even[i]) below those of bf16(odd[i]): a pair for dot_pairs.
inline Vec interleave_bfloat16(Vec even, Vec odd) {
  const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd.v, even.v));
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(halves, 1));
  return {_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)))};
}
// 32 values rounded to bf16, as 16 lanes of two: what storing `first` and `second` one after the other gives.
inline Vec join_bfloat16(Vec first, Vec second) { return {reinterpret_cast<__m512>(_mm512_cvtne2ps_pbh(second.v, first.v))}; }
// Lane j of rows[i] goes to lane i of rows[j]; `rows` has 16.
inline void transpose(Vec* rows) {
  __m512d pairs[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512 a = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v), b = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
    const __m512 c = _mm512_unpacklo_ps(rows[i + 2].v, rows[i + 3].v), d = _mm512_unpackhi_ps(rows[i + 2].v, rows[i + 3].v);
    pairs[i] = _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(c));
    pairs[i + 1] = _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(c));
    pairs[i + 2] = _mm512_unpacklo_pd(_mm512_castps_pd(b), _mm512_castps_pd(d));
    pairs[i + 3] = _mm512_unpackhi_pd(_mm512_castps_pd(b), _mm512_castps_pd(d));
  }
  // pairs[4 i + j] holds, of rows 4 i to 4 i + 3, the lanes j, 4 + j, 8 + j and 12 + j; 128 bits each.
  for (int j = 0; j < 4; ++j) {
    const __m512 a = _mm512_castpd_ps(pairs[j]), b = _mm512_castpd_ps(pairs[4 + j]);
    const __m512 c = _mm512_castpd_ps(pairs[8 + j]), d = _mm512_castpd_ps(pairs[12 + j]);
    const __m512 ab_even = _mm512_shuffle_f32x4(a, b, 0x88), ab_odd = _mm512_shuffle_f32x4(a, b, 0xdd);
    const __m512 cd_even = _mm512_shuffle_f32x4(c, d, 0x88), cd_odd = _mm512_shuffle_f32x4(c, d, 0xdd);
    rows[j].v = _mm512_shuffle_f32x4(ab_even, cd_even, 0x88);
    rows[4 + j].v = _mm512_shuffle_f32x4(ab_odd, cd_odd, 0x88);
    rows[8 + j].v = _mm512_shuffle_f32x4(ab_even, cd_even, 0xdd);
    rows[12 + j].v = _mm512_shuffle_f32x4(ab_odd, cd_odd, 0xdd);
  }
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
inline void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace codellama::CODELLAMA_LEVEL
