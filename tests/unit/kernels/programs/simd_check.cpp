// Every function of one level's vectors against scalar code; ends with "ok" or with the first thing that is wrong.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "simd.h"

namespace {

using namespace codellama;                   // the program is one file of tests
using namespace codellama::CODELLAMA_LEVEL;  // NOLINT

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kUnit = 1.0 / (1 << 24);  // rounding error of one operation, relative

void check(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  std::_Exit(1);
}

uint32_t bits(float x) {
  uint32_t result;
  std::memcpy(&result, &x, sizeof(result));
  return result;
}

bool same(float a, float b) { return (std::isnan(a) && std::isnan(b)) || bits(a) == bits(b); }

std::string told(const std::string& what, float got, float wanted) {
  char text[200];
  std::snprintf(text, sizeof(text), "%s gives %.9g, must be %.9g", what.c_str(), static_cast<double>(got), static_cast<double>(wanted));
  return text;
}

struct Lanes {
  float v[kLanes];
};

Lanes lanes(Vec a) {
  Lanes result;
  store(result.v, a);
  return result;
}

// Values every operation meets: random ones, and all kinds of special ones in turn.
std::vector<Lanes> samples() {
  const std::vector<float> special = {0.0f, -0.0f, kInf, -kInf, kNan, 1e-45f, -1e-40f, 1.17549435e-38f, 3.4028235e38f, -3.4028235e38f, 0.5f,
                                      1.5f, 2.5f, -2.5f, 8388607.5f, 16777217.0f, 1.0f, -1.0f, 1.00390625f, 1.01171875f, 65504.0f};
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-40, 40);
  std::vector<Lanes> result(40);
  for (size_t s = 0; s < result.size(); ++s) {
    for (int i = 0; i < kLanes; ++i) {
      const bool usual = s < 20;
      result[s].v[i] = usual ? std::ldexp(normal(random), s < 10 ? 0 : exponent(random)) : special[(s * 7 + static_cast<size_t>(i) * (s % 5 + 1)) % special.size()];
    }
  }
  return result;
}

template <class Function, class Wanted>
void one(const char* name, Function function, Wanted wanted) {
  for (const Lanes& a : samples()) {
    const Lanes got = lanes(function(load(a.v)));
    for (int i = 0; i < kLanes; ++i) check(same(got.v[i], wanted(a.v[i])), told(name + (" of " + std::to_string(a.v[i])), got.v[i], wanted(a.v[i])));
  }
}

template <class Function, class Wanted>
void two(const char* name, Function function, Wanted wanted) {
  const std::vector<Lanes> all = samples();
  for (size_t s = 0; s < all.size(); ++s) {
    const Lanes& a = all[s];
    const Lanes& b = all[(s * 3 + 7) % all.size()];
    const Lanes got = lanes(function(load(a.v), load(b.v)));
    for (int i = 0; i < kLanes; ++i) check(same(got.v[i], wanted(a.v[i], b.v[i])), told(name, got.v[i], wanted(a.v[i], b.v[i])));
  }
}

void arithmetic() {
  two("+", [](Vec a, Vec b) { return a + b; }, [](float a, float b) { return a + b; });
  two("-", [](Vec a, Vec b) { return a - b; }, [](float a, float b) { return a - b; });
  two("*", [](Vec a, Vec b) { return a * b; }, [](float a, float b) { return a * b; });
  two("/", [](Vec a, Vec b) { return a / b; }, [](float a, float b) { return a / b; });
  two("min", [](Vec a, Vec b) { return min(a, b); }, [](float a, float b) { return a < b ? a : b; });
  two("max", [](Vec a, Vec b) { return max(a, b); }, [](float a, float b) { return a > b ? a : b; });
  one("abs", [](Vec a) { return abs(a); }, [](float a) { return std::fabs(a); });
  one("sqrt", [](Vec a) { return sqrt(a); }, [](float a) { return std::sqrt(a); });
  one("round", [](Vec a) { return round(a); }, [](float a) { return std::nearbyintf(a); });
  for (const Lanes& a : samples()) {
    const Lanes got = lanes(fma(load(a.v), broadcast(3.1f), broadcast(-0.7f)));
    for (int i = 0; i < kLanes; ++i) {
      const float fused = std::fma(a.v[i], 3.1f, -0.7f), apart = a.v[i] * 3.1f + -0.7f;
      check(same(got.v[i], fused) || same(got.v[i], apart), told("fma", got.v[i], fused));
    }
  }
  for (int i = 0; i < kLanes; ++i) check(same(lanes(zero()).v[i], 0.0f) && same(lanes(broadcast(-0.0f)).v[i], -0.0f), "zero or broadcast");
}

void reductions() {
  for (const Lanes& a : samples()) {
    double wanted = 0, size = 0;
    float most = a.v[0];
    bool finite = true;
    for (float x : a.v) {
      wanted += x, size += std::fabs(x), finite = finite && std::isfinite(x);
      most = x > most ? x : most;
    }
    if (!finite) {
      if (std::isnan(wanted)) check(std::isnan(sum(load(a.v))), "a sum has lost a NaN");
      continue;
    }
    if (size < 3e38) check(std::fabs(sum(load(a.v)) - wanted) <= 16 * kUnit * size, told("sum", sum(load(a.v)), static_cast<float>(wanted)));
    check(largest(load(a.v)) == most, told("largest", largest(load(a.v)), most));
  }
}

void exponentials() {
  for (int n = -126; n <= 127; ++n) check(same(lanes(power_of_two(broadcast(static_cast<float>(n)))).v[5], std::ldexp(1.0f, n)), "power_of_two");
  for (double x = -87; x <= 88; x += 0.0137) {
    const float at = static_cast<float>(x);
    const double wanted = std::exp(static_cast<double>(at));
    const float got = lanes(exp(broadcast(at))).v[3];
    check(std::fabs(got - wanted) <= 2e-7 * wanted, told("exp of " + std::to_string(at), got, static_cast<float>(wanted)));
    const double soft = at / (1 + std::exp(-static_cast<double>(at)));
    const float silu_got = lanes(silu(broadcast(at))).v[7];
    check(std::fabs(silu_got - soft) <= 5e-7 * std::fabs(soft) + 1e-36, told("silu of " + std::to_string(at), silu_got, static_cast<float>(soft)));
  }
  check(lanes(exp(broadcast(-kInf))).v[0] <= 2e-38f && lanes(exp(broadcast(-1e30f))).v[1] <= 2e-38f, "exp of very negative values is not small");
  check(lanes(exp(zero())).v[0] == 1.0f && std::isfinite(lanes(exp(broadcast(kInf))).v[0]), "exp of 0 or infinity");
  check(std::isnan(lanes(exp(broadcast(kNan))).v[0]) && std::isnan(lanes(silu(broadcast(kNan))).v[9]), "exp or silu has lost a NaN");
}

// Two pages of which the second may not be touched; memory ends where the first does.
class PageEnd {
 public:
  PageEnd() : page_(sysconf(_SC_PAGESIZE)) {
    memory_ = static_cast<char*>(mmap(nullptr, 2 * static_cast<size_t>(page_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    check(memory_ != MAP_FAILED && mprotect(memory_ + page_, static_cast<size_t>(page_), PROT_NONE) == 0, "no pages");
  }
  ~PageEnd() { munmap(memory_, 2 * static_cast<size_t>(page_)); }
  template <class T>
  T* last(int count) {
    return reinterpret_cast<T*>(memory_ + page_) - count;
  }

 private:
  long page_;
  char* memory_;
};

void parts() {
  PageEnd end;
  for (int count = 0; count <= kLanes; ++count) {
    float* p = end.last<float>(count);
    for (int i = 0; i < count; ++i) p[i] = static_cast<float>(i) - 3.25f;
    const Lanes got = lanes(load_first(static_cast<const float*>(p), count));
    for (int i = 0; i < kLanes; ++i) check(same(got.v[i], i < count ? p[i] : 0.0f), "load_first of float, " + std::to_string(count));
    store_first(p, broadcast(4.5f), count);
    for (int i = 0; i < count; ++i) check(p[i] == 4.5f, "store_first of float");
    Bfloat16* h = end.last<Bfloat16>(count);
    for (int i = 0; i < count; ++i) h[i] = to_bfloat16(static_cast<float>(i) - 3.25f);
    const Lanes halves = lanes(load_first(static_cast<const Bfloat16*>(h), count));
    for (int i = 0; i < kLanes; ++i) check(same(halves.v[i], i < count ? to_float(h[i]) : 0.0f), "load_first of bfloat16, " + std::to_string(count));
    store_first(h, broadcast(-1.5f), count);
    for (int i = 0; i < count; ++i) check(h[i] == to_bfloat16(-1.5f), "store_first of bfloat16");
  }
  store(end.last<float>(kLanes), zero());
  store(end.last<Bfloat16>(kLanes), zero());
  check(lanes(load(static_cast<const Bfloat16*>(end.last<Bfloat16>(kLanes)))).v[15] == 0.0f, "load of bfloat16");
  float behind[kLanes + 2];
  for (int count = 0; count <= kLanes; ++count) {
    std::fill(behind, behind + kLanes + 2, 9.0f);
    store_first(behind + 1, zero(), count);
    for (int i = 0; i < kLanes + 2; ++i) check(behind[i] == (i >= 1 && i <= count ? 0.0f : 9.0f), "store_first wrote too much or too little");
  }
}

bool subnormal(float x) { return x != 0 && std::fabs(x) < 1.17549435e-38f; }

// Rounding to bfloat16; `flushes`: the machine's instruction may make zeros of subnormal numbers.
void halves_equal(const Bfloat16* got, const float* from, int count, bool flushes, const char* what) {
  for (int i = 0; i < count; ++i) {
    const Bfloat16 wanted = to_bfloat16(from[i]);
    const bool right = got[i] == wanted || (std::isnan(from[i]) && std::isnan(to_float(got[i]))) || (flushes && subnormal(from[i]) && (got[i] & 0x7fff) == 0);
    check(right, told(what, to_float(got[i]), to_float(wanted)));
  }
}

void bfloat16s() {
  const std::vector<Lanes> all = samples();
  for (size_t s = 0; s < all.size(); ++s) {
    Bfloat16 stored[2 * kLanes];
    store(stored, load(all[s].v));
    halves_equal(stored, all[s].v, kLanes, false, "store as bfloat16");
    const Lanes back = lanes(load(static_cast<const Bfloat16*>(stored)));
    for (int i = 0; i < kLanes; ++i) check(same(back.v[i], to_float(stored[i])), "load of bfloat16");
    const Lanes& other = all[(s * 5 + 3) % all.size()];
    float both[2 * kLanes], turns[2 * kLanes];
    for (int i = 0; i < kLanes; ++i) {
      both[i] = turns[2 * i] = all[s].v[i];
      both[kLanes + i] = turns[2 * i + 1] = other.v[i];
    }
    const Lanes joined = lanes(join_bfloat16(load(all[s].v), load(other.v)));
    std::memcpy(stored, joined.v, sizeof(stored));
    halves_equal(stored, both, 2 * kLanes, true, "join_bfloat16");
    const Lanes woven = lanes(interleave_bfloat16(load(all[s].v), load(other.v)));
    std::memcpy(stored, woven.v, sizeof(stored));
    halves_equal(stored, turns, 2 * kLanes, true, "interleave_bfloat16");
  }
}

void pairs() {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 50; ++round) {
    Bfloat16 a[2 * kLanes], b[2];
    float c[kLanes];
    for (Bfloat16& x : a) x = to_bfloat16(normal(random));
    for (Bfloat16& x : b) x = to_bfloat16(normal(random));
    for (float& x : c) x = normal(random);
    const Lanes got = lanes(dot_pairs(load(c), a, b));
    for (int i = 0; i < kLanes; ++i) {
      const double low = static_cast<double>(to_float(a[2 * i])) * to_float(b[0]), high = static_cast<double>(to_float(a[2 * i + 1])) * to_float(b[1]);
      check(std::fabs(got.v[i] - (c[i] + low + high)) <= 3 * kUnit * (std::fabs(c[i]) + std::fabs(low) + std::fabs(high)), "dot_pairs");
    }
    a[6] = to_bfloat16(kNan);
    check(std::isnan(lanes(dot_pairs(load(c), a, b)).v[3]) && !std::isnan(lanes(dot_pairs(load(c), a, b)).v[2]), "dot_pairs has lost a NaN");
  }
}

Int ints(const int32_t* values) {
  float parts[kLanes];
  for (int i = 0; i < kLanes; ++i) parts[i] = static_cast<float>(values[i]);
  return nearest_int(load(parts));
}

void integers() {
  std::mt19937 random(3);
  std::uniform_int_distribution<int> any(-127, 127), byte(1, 255), large(-8000000, 8000000);
  for (int round = 0; round < 200; ++round) {
    const bool extreme = round < 8;
    int32_t values[kLanes], small[kLanes];
    int8_t x[4], stored[kLanes];
    uint8_t w[4 * kLanes];
    for (int32_t& value : values) value = large(random);
    for (int32_t& value : small) value = any(random);
    for (int8_t& value : x) value = static_cast<int8_t>(extreme ? (round & 1 ? 127 : -127) : any(random));
    for (uint8_t& value : w) value = static_cast<uint8_t>(extreme ? (round & 2 ? 255 : 1) : byte(random));
    int64_t total = 0;
    for (int32_t value : values) total += value;
    check(sum(ints(values)) == total, "sum of ints");
    store_bytes(stored, ints(small));
    const Lanes as_float = lanes(to_float(ints(values) + broadcast_int(5) + zero_int()));
    for (int i = 0; i < kLanes; ++i) check(stored[i] == small[i] && as_float.v[i] == static_cast<float>(values[i] + 5), "store_bytes, + or to_float");
    const int32_t input_sum = x[0] + x[1] + x[2] + x[3];
    const Bytes bytes = load_bytes(w);
    const Lanes dots = lanes(to_float(dot_bytes(start_bytes(input_sum), bytes, x)));
    const Lanes lows = lanes(to_float(dot_nibbles(start_nibbles(input_sum), low_nibbles(bytes), x)));
    const Lanes highs = lanes(to_float(dot_nibbles(start_nibbles(input_sum), high_nibbles(bytes), x)));
    for (int i = 0; i < kLanes; ++i) {
      int wanted = 0, low = 0, high = 0;
      for (int j = 0; j < 4; ++j) {
        wanted += (w[4 * i + j] - 128) * x[j];
        low += ((w[4 * i + j] & 15) - 8) * x[j];
        high += ((w[4 * i + j] >> 4) - 8) * x[j];
      }
      check(dots.v[i] == static_cast<float>(wanted), told("dot_bytes", dots.v[i], static_cast<float>(wanted)));
      check(lows.v[i] == static_cast<float>(low) && highs.v[i] == static_cast<float>(high), "dot_nibbles");
    }
  }
  const float ties[kLanes] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 3.49f, 126.5f, -126.5f, 1e6f, 0, -0.0f, 7, -7, 0.49999997f, 8388607.0f};
  const Lanes nearest = lanes(to_float(nearest_int(load(ties))));
  for (int i = 0; i < kLanes; ++i) check(nearest.v[i] == std::nearbyintf(ties[i]), "nearest_int");
}

void transposes() {
  Vec rows[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    float row[kLanes];
    for (int j = 0; j < kLanes; ++j) row[j] = static_cast<float>(100 * i + j);
    rows[i] = load(row);
  }
  transpose(rows);
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) check(lanes(rows[i]).v[j] == static_cast<float>(100 * j + i), "transpose");
  }
}

}  // namespace

int main() {
  arithmetic();
  reductions();
  exponentials();
  parts();
  bfloat16s();
  pairs();
  integers();
  transposes();
  prefetch(nullptr);
  std::puts("ok");
  return 0;
}
