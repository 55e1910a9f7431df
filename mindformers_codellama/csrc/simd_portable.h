// Vec and Int as arrays; any C++17 compiler makes of them what its machine has.
#pragma once

namespace codellama::CODELLAMA_LEVEL {

struct Vec {
  float v[kLanes];
};
struct Int {
  int32_t v[kLanes];
};

template <class Out, class Function>
inline Out each(Function function) {
  Out result;
  for (int i = 0; i < kLanes; ++i) result.v[i] = function(i);
  return result;
}

inline Vec zero() {
  return each<Vec>([](int) { return 0.0f; });
}
inline Vec broadcast(float x) {
  return each<Vec>([=](int) { return x; });
}
inline Vec load(const float* p) {
  return each<Vec>([=](int i) { return p[i]; });
}
inline void store(float* p, Vec a) { std::memcpy(p, a.v, sizeof(a.v)); }
// The first `count` lanes (0 to 16); the others are 0 and no memory behind them is touched.
inline Vec load_first(const float* p, int count) {
  return each<Vec>([=](int i) { return i < count ? p[i] : 0.0f; });
}
inline void store_first(float* p, Vec a, int count) { std::memcpy(p, a.v, sizeof(float) * count); }
inline Vec load(const Bfloat16* p) {
  return each<Vec>([=](int i) { return codellama::to_float(p[i]); });
}
inline Vec load_first(const Bfloat16* p, int count) {
  return each<Vec>([=](int i) { return i < count ? codellama::to_float(p[i]) : 0.0f; });
}
inline void store_first(Bfloat16* p, Vec a, int count) {
  for (int i = 0; i < count; ++i) p[i] = to_bfloat16(a.v[i]);
}
inline void store(Bfloat16* p, Vec a) { store_first(p, a, kLanes); }

inline Vec operator+(Vec a, Vec b) {
  return each<Vec>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec operator-(Vec a, Vec b) {
  return each<Vec>([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec operator*(Vec a, Vec b) {
  return each<Vec>([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec operator/(Vec a, Vec b) {
  return each<Vec>([&](int i) { return a.v[i] / b.v[i]; });
}
// a * b + c
inline Vec fma(Vec a, Vec b, Vec c) {
  return each<Vec>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// b where either is NaN.
inline Vec min(Vec a, Vec b) {
  return each<Vec>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec max(Vec a, Vec b) {
  return each<Vec>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec abs(Vec a) {
  return each<Vec>([&](int i) { return std::fabs(a.v[i]); });
}
inline Vec sqrt(Vec a) {
  return each<Vec>([&](int i) { return std::sqrt(a.v[i]); });
}
// To the nearest integer, ties to even.
inline Vec round(Vec a) {
  return each<Vec>([&](int i) { return std::nearbyintf(a.v[i]); });
}
inline float sum(Vec a) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  }
  return a.v[0];
}
inline float largest(Vec a) {
  float result = a.v[0];
  for (int i = 1; i < kLanes; ++i) result = a.v[i] > result ? a.v[i] : result;
  return result;
}
// 2^n of integers n in [-126, 127].
inline Vec power_of_two(Vec n) {
  return each<Vec>([&](int i) {
    const uint32_t bits = static_cast<uint32_t>(n.v[i] == n.v[i] ? static_cast<int32_t>(n.v[i]) + 127 : 0) << 23;
    float result;
    std::memcpy(&result, &bits, sizeof(result));
    return result;
  });
}

inline Int zero_int() {
  return each<Int>([](int) { return 0; });
}
inline Int broadcast_int(int32_t x) {
  return each<Int>([=](int) { return x; });
}
inline Int operator+(Int a, Int b) {
  return each<Int>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec to_float(Int a) {
  return each<Vec>([&](int i) { return static_cast<float>(a.v[i]); });
}

// c[i] + a[2i] * b[0] + a[2i + 1] * b[1]: 16 pairs of bf16 times one pair, in fp32.
inline Vec dot_pairs(Vec c, const Bfloat16* a, const Bfloat16* b) {
  const float even = codellama::to_float(b[0]);
  const float odd = codellama::to_float(b[1]);
  return each<Vec>([&](int i) { return c.v[i] + codellama::to_float(a[2 * i]) * even + codellama::to_float(a[2 * i + 1]) * odd; });
}

// To the nearest integer, ties to even; of values within int32.
inline Int nearest_int(Vec a) {
  return each<Int>([&](int i) { return static_cast<int32_t>(std::nearbyintf(a.v[i])); });
}
inline int32_t sum(Int a) {
  int32_t result = 0;
  for (int32_t value : a.v) result += value;
  return result;
}
// The low byte of each lane; of values within int8.
inline void store_bytes(int8_t* p, Int a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}

// 64 packed weights of 16 rows and 4 columns, in the order [16][4].
struct Bytes {
  uint8_t v[4 * kLanes];
};
inline Bytes load_bytes(const uint8_t* p) {
  Bytes result;
  std::memcpy(result.v, p, sizeof(result.v));
  return result;
}
inline Bytes low_nibbles(Bytes a) {
  for (uint8_t& byte : a.v) byte = static_cast<uint8_t>(byte & 15);
  return a;
}
inline Bytes high_nibbles(Bytes a) {
  for (uint8_t& byte : a.v) byte = static_cast<uint8_t>(byte >> 4);
  return a;
}
// What a sum of dot_bytes (or dot_nibbles) over a group begins with, given the sum of the inputs of the group.
inline Int start_bytes(int32_t sum) { return broadcast_int(-128 * sum); }
inline Int start_nibbles(int32_t sum) { return broadcast_int(-8 * sum); }
// c[i] + the sum over 4 columns of (w[i][j] - 128) * x[j], once start_bytes is in c. dot_nibbles: w[i][j] - 8.
inline Int dot_bytes(Int c, Bytes w, const int8_t* x) {
  return each<Int>([&](int i) {
    const uint8_t* four = w.v + 4 * i;
    return c.v[i] + four[0] * x[0] + four[1] * x[1] + four[2] * x[2] + four[3] * x[3];
  });
}
inline Int dot_nibbles(Int c, Bytes w, const int8_t* x) { return dot_bytes(c, w, x); }

// Lane i of the result holds the bits of bf16(even[i]) below those of bf16(odd[i]): a pair for dot_pairs.
inline Vec interleave_bfloat16(Vec even, Vec odd) {
  Bfloat16 halves[2 * kLanes];
  for (int i = 0; i < kLanes; ++i) {
    halves[2 * i] = to_bfloat16(even.v[i]);
    halves[2 * i + 1] = to_bfloat16(odd.v[i]);
  }
  Vec result;
  std::memcpy(result.v, halves, sizeof(halves));
  return result;
}
// 32 values rounded to bf16, as 16 lanes of two: what storing `first` and `second` one after the other gives.
inline Vec join_bfloat16(Vec first, Vec second) {
  Bfloat16 halves[2 * kLanes];
  store(halves, first);
  store(halves + kLanes, second);
  Vec result;
  std::memcpy(result.v, halves, sizeof(halves));
  return result;
}
// Lane j of rows[i] goes to lane i of rows[j]; `rows` has 16.
inline void transpose(Vec* rows) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) std::swap(rows[i].v[j], rows[j].v[i]);
  }
}

inline void prefetch(const void*) {}
inline void prefetch_far(const void*) {}

}  // namespace codellama::CODELLAMA_LEVEL
