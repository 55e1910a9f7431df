// Vec and Int in four NEON registers each (ARMv8.2 with the integer dot product). Run under emulation only, not on hardware.
#pragma once

#include <arm_neon.h>

namespace codellama::CODELLAMA_LEVEL {

struct Vec {
  float32x4_t q[4];
};
struct Int {
  int32x4_t q[4];
};

// A Vec or Int of what `function` makes for the quarters 0 to 3.
template <class Out, class Function>
inline Out quarters(Function function) {
  return {{function(0), function(1), function(2), function(3)}};
}

inline Vec broadcast(float x) {
  return quarters<Vec>([=](int) { return vdupq_n_f32(x); });
}
inline Vec zero() { return broadcast(0.0f); }
inline Vec load(const float* p) {
  return quarters<Vec>([=](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float* p, Vec a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.q[i]);
}
// The first `count` lanes (0 to 16); the others are 0 and no memory behind them is touched.
inline Vec load_first(const float* p, int count) {
  float copy[kLanes] = {};
  std::memcpy(copy, p, sizeof(float) * static_cast<size_t>(count));
  return load(copy);
}
inline void store_first(float* p, Vec a, int count) {
  float copy[kLanes];
  store(copy, a);
  std::memcpy(p, copy, sizeof(float) * static_cast<size_t>(count));
}

inline float32x4_t widen(uint16x4_t halves) { return vreinterpretq_f32_u32(vshll_n_u16(halves, 16)); }
inline Vec load(const Bfloat16* p) {
  return quarters<Vec>([=](int i) { return widen(vld1_u16(p + 4 * i)); });
}
inline Vec load_first(const Bfloat16* p, int count) {
  Bfloat16 copy[kLanes] = {};
  std::memcpy(copy, p, sizeof(Bfloat16) * static_cast<size_t>(count));
  return load(copy);
}
inline uint16x4_t narrow(float32x4_t a) {
  const uint32x4_t bits = vreinterpretq_u32_f32(a);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff)), 16);
  const uint32x4_t quiet = vorrq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32(vceqq_f32(a, a), rounded, quiet));
}
inline void store(Bfloat16* p, Vec a) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, narrow(a.q[i]));
}
inline void store_first(Bfloat16* p, Vec a, int count) {
  Bfloat16 copy[kLanes];
  store(copy, a);
  std::memcpy(p, copy, sizeof(Bfloat16) * static_cast<size_t>(count));
}

inline Vec operator+(Vec a, Vec b) {
  return quarters<Vec>([&](int i) { return vaddq_f32(a.q[i], b.q[i]); });
}
inline Vec operator-(Vec a, Vec b) {
  return quarters<Vec>([&](int i) { return vsubq_f32(a.q[i], b.q[i]); });
}
inline Vec operator*(Vec a, Vec b) {
  return quarters<Vec>([&](int i) { return vmulq_f32(a.q[i], b.q[i]); });
}
inline Vec operator/(Vec a, Vec b) {
  return quarters<Vec>([&](int i) { return vdivq_f32(a.q[i], b.q[i]); });
}
// a * b + c
inline Vec fma(Vec a, Vec b, Vec c) {
  return quarters<Vec>([&](int i) { return vfmaq_f32(c.q[i], a.q[i], b.q[i]); });
}
// b where either is NaN.
inline Vec min(Vec a, Vec b) {
  return quarters<Vec>([&](int i) { return vbslq_f32(vcltq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]); });
}
inline Vec max(Vec a, Vec b) {
  return quarters<Vec>([&](int i) { return vbslq_f32(vcgtq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]); });
}
inline Vec abs(Vec a) {
  return quarters<Vec>([&](int i) { return vabsq_f32(a.q[i]); });
}
inline Vec sqrt(Vec a) {
  return quarters<Vec>([&](int i) { return vsqrtq_f32(a.q[i]); });
}
// To the nearest integer, ties to even.
inline Vec round(Vec a) {
  return quarters<Vec>([&](int i) { return vrndnq_f32(a.q[i]); });
}
inline float sum(Vec a) { return vaddvq_f32(vaddq_f32(vaddq_f32(a.q[0], a.q[2]), vaddq_f32(a.q[1], a.q[3]))); }
inline float largest(Vec a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.q[0], a.q[2]), vmaxq_f32(a.q[1], a.q[3]))); }
// 2^n of integers n in [-126, 127].
inline Vec power_of_two(Vec n) {
  return quarters<Vec>([&](int i) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.q[i]), vdupq_n_s32(127)), 23)); });
}

inline Int broadcast_int(int32_t x) {
  return quarters<Int>([=](int) { return vdupq_n_s32(x); });
}
inline Int zero_int() { return broadcast_int(0); }
inline Int operator+(Int a, Int b) {
  return quarters<Int>([&](int i) { return vaddq_s32(a.q[i], b.q[i]); });
}
inline Vec to_float(Int a) {
  return quarters<Vec>([&](int i) { return vcvtq_f32_s32(a.q[i]); });
}

// c[i] + a[2i] * b[0] + a[2i + 1] * b[1]: 16 pairs of bf16 times one pair, in fp32.
inline Vec dot_pairs(Vec c, const Bfloat16* a, const Bfloat16* b) {
  const float even = codellama::to_float(b[0]), odd = codellama::to_float(b[1]);
  return quarters<Vec>([&](int i) {
    const uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(a + 8 * i));
    const float32x4_t low = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    const float32x4_t high = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
    return vfmaq_n_f32(vfmaq_n_f32(c.q[i], low, even), high, odd);
  });
}

// To the nearest integer, ties to even; of values within int32.
inline Int nearest_int(Vec a) {
  return quarters<Int>([&](int i) { return vcvtnq_s32_f32(a.q[i]); });
}
inline int32_t sum(Int a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.q[0], a.q[2]), vaddq_s32(a.q[1], a.q[3]))); }
// The low byte of each lane; of values within int8.
inline void store_bytes(int8_t* p, Int a) {
  const int16x8_t first = vcombine_s16(vmovn_s32(a.q[0]), vmovn_s32(a.q[1])), second = vcombine_s16(vmovn_s32(a.q[2]), vmovn_s32(a.q[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(first), vmovn_s16(second)));
}

// 64 packed weights of 16 rows and 4 columns, in the order [16][4].
struct Bytes {
  uint8x16_t q[4];
};
inline Bytes load_bytes(const uint8_t* p) {
  return quarters<Bytes>([=](int i) { return vld1q_u8(p + 16 * i); });
}
inline Bytes low_nibbles(Bytes a) {
  return quarters<Bytes>([&](int i) { return vandq_u8(a.q[i], vdupq_n_u8(15)); });
}
inline Bytes high_nibbles(Bytes a) {
  return quarters<Bytes>([&](int i) { return vshrq_n_u8(a.q[i], 4); });
}
inline int8x16_t broadcast_four(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
// What a sum of dot_bytes (or dot_nibbles) over a group begins with, given the sum of the inputs of the group.
inline Int start_bytes(int32_t) { return zero_int(); }
inline Int start_nibbles(int32_t sum) { return broadcast_int(-8 * sum); }
// c[i] + the sum over 4 columns of (w[i][j] - 128) * x[j], once start_bytes is in c. dot_nibbles: w[i][j] - 8.
inline Int dot_bytes(Int c, Bytes w, const int8_t* x) {
  const int8x16_t four = broadcast_four(x);
  return quarters<Int>([&](int i) { return vdotq_s32(c.q[i], vreinterpretq_s8_u8(veorq_u8(w.q[i], vdupq_n_u8(0x80))), four); });
}
inline Int dot_nibbles(Int c, Bytes w, const int8_t* x) {
  const int8x16_t four = broadcast_four(x);
  return quarters<Int>([&](int i) { return vdotq_s32(c.q[i], vreinterpretq_s8_u8(w.q[i]), four); });
}

// Lane i of the result holds the bits of bf16(even[i]) below those of bf16(odd[i]): a pair for dot_pairs.
inline Vec interleave_bfloat16(Vec even, Vec odd) {
  return quarters<Vec>([&](int i) {
    const uint16x4_t low = narrow(even.q[i]), high = narrow(odd.q[i]);
    return vreinterpretq_f32_u16(vcombine_u16(vzip1_u16(low, high), vzip2_u16(low, high)));
  });
}
// 32 values rounded to bf16, as 16 lanes of two: what storing `first` and `second` one after the other gives.
inline Vec join_bfloat16(Vec first, Vec second) {
  return quarters<Vec>([&](int i) {
    const float32x4_t* from = (i < 2 ? first.q : second.q) + i % 2 * 2;
    return vreinterpretq_f32_u16(vcombine_u16(narrow(from[0]), narrow(from[1])));
  });
}
// Lane j of rows[i] goes to lane i of rows[j], of 4 registers.
inline void transpose(float32x4_t* rows) {
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(rows[0], rows[1])), b = vreinterpretq_f64_f32(vtrn2q_f32(rows[0], rows[1]));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(rows[2], rows[3])), d = vreinterpretq_f64_f32(vtrn2q_f32(rows[2], rows[3]));
  rows[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  rows[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  rows[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  rows[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}
// Lane j of rows[i] goes to lane i of rows[j]; `rows` has 16.
inline void transpose(Vec* rows) {
  Vec turned[kLanes];
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      float32x4_t block[4];
      for (int k = 0; k < 4; ++k) block[k] = rows[4 * i + k].q[j];
      transpose(block);
      for (int k = 0; k < 4; ++k) turned[4 * j + k].q[i] = block[k];
    }
  }
  for (int i = 0; i < kLanes; ++i) rows[i] = turned[i];
}

inline void prefetch(const void* p) { __builtin_prefetch(p); }
inline void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace codellama::CODELLAMA_LEVEL
