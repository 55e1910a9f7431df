// Inputs rounded or quantised for a form, and weights quantised; every level gives the same bits.
#include "packed_level.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

// Below it a group of inputs counts as zero: 127 / amax would overflow soon after.
constexpr float kSmallest = 7.888609052210118e-31f;  // 2^-100

struct Range {
  float largest;     // of the absolute values; meaningless when not_finite is NaN
  float not_finite;  // 0, or NaN when a value is NaN or infinite
};

Range range_of(const float* x, int64_t count) {
  Vec largest_seen = zero();
  Vec not_finite = zero();
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t left = count - i;
    const Vec v = left >= kLanes ? load(x + i) : load_first(x + i, static_cast<int>(left));
    largest_seen = max(largest_seen, abs(v));
    not_finite = not_finite + v * zero();
  }
  return {largest(largest_seen), sum(not_finite)};
}

// The smallest bfloat16 that is not below `value` (finite, not negative).
Bfloat16 round_up(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<Bfloat16>((bits + 0xffffu) >> 16);
}

}  // namespace

void round_row(const float* x, int64_t columns, int64_t padded, Bfloat16* y) {
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) store(y + i, load(x + i));
  store_first(y + i, load_first(x + i, static_cast<int>(columns - i)), static_cast<int>(padded - i));
}

void quantize_group(const float* x, int64_t count, int64_t group, int8_t* bytes, float* scale, int32_t* sum) {
  const Range range = range_of(x, count);
  const bool is_usual = range.not_finite == 0.0f && range.largest >= kSmallest;
  *sum = 0;
  if (!is_usual) {
    std::memset(bytes, 0, static_cast<size_t>(group));
    *scale = range.not_finite == 0.0f ? 0.0f : range.not_finite;
    return;
  }
  *scale = range.largest / 127.0f;
  const Vec inverse = broadcast(127.0f / range.largest);
  Int total = zero_int();
  for (int64_t i = 0; i < group; i += kLanes) {
    const int left = static_cast<int>(count - i < 0 ? 0 : count - i < kLanes ? count - i : kLanes);
    const Vec v = left == kLanes ? load(x + i) : load_first(x + i, left);
    const Int q = nearest_int(v * inverse);
    store_bytes(bytes + i, q);
    total = total + q;
  }
  *sum = codellama::CODELLAMA_LEVEL::sum(total);
}

bool quantize_weights(const float* w, int64_t count, int64_t group, int limit, int8_t* q, Bfloat16* scale) {
  const Range range = range_of(w, count);
  if (range.not_finite != 0.0f) return false;
  *scale = round_up(range.largest / static_cast<float>(limit));
  const float step = codellama::to_float(*scale);
  const Vec divisor = broadcast(step == 0.0f ? 1.0f : step);
  const Vec bound = broadcast(static_cast<float>(limit));
  for (int64_t i = 0; i < group; i += kLanes) {
    const int left = static_cast<int>(count - i < 0 ? 0 : count - i < kLanes ? count - i : kLanes);
    const Vec v = left == kLanes ? load(w + i) : load_first(w + i, left);
    store_bytes(q + i, nearest_int(max(min(round(v / divisor), bound), zero() - bound)));
  }
  return true;
}

}  // namespace codellama::CODELLAMA_LEVEL
