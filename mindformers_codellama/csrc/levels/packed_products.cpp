#include "packed_level.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

void finish(const TileProduct& p, int64_t row, int64_t tile, Vec value) {
  float* y = p.y + row * p.y_stride + tile * kLanes;
  const int64_t left = p.matrix.rows - tile * kLanes;
  const int count = static_cast<int>(left < kLanes ? left : kLanes);
  store_first(y, p.add ? load_first(y, count) + value : value, count);
}

template <class Function>
void each_tile(const TileProduct& p, Function function) {
  for (int64_t tile = p.begin; tile < p.end; ++tile) {
    for (int64_t row = p.first; row < p.last; ++row) finish(p, row, tile, function(row, tile));
  }
}

template <class Dot>
void multiply_groups(const TileProduct& p, int64_t bytes_of_four, Dot dot) {
  const Activations& a = p.activations;
  const int64_t groups = padded_columns(a.form, a.columns, a.group) / a.group;
  each_tile(p, [&](int64_t row, int64_t tile) {
    Vec total = zero();
    for (int64_t g = 0; g < groups; ++g) {
      const auto* w = static_cast<const uint8_t*>(p.matrix.values) + (tile * groups + g) * (a.group / 4) * bytes_of_four;
      const Int sum = dot(w, a.bytes + row * a.stride + g * a.group, a.sums[row * groups + g]);
      const Vec scale = load(p.matrix.scales + (tile * groups + g) * kLanes) * broadcast(a.scales[row * groups + g]);
      total = total + to_float(sum) * scale;
    }
    return total;
  });
}

}  // namespace

void multiply_float32(const TileProduct& p) {
  const int64_t columns = p.activations.columns;
  for (int64_t n = p.begin * kLanes; n < p.end * kLanes && n < p.matrix.rows; ++n) {
    const float* w = static_cast<const float*>(p.matrix.values) + n * columns;
    for (int64_t row = p.first; row < p.last; ++row) {
      const float* x = p.activations.x + row * p.activations.x_stride;
      Vec total = zero();
      for (int64_t k = 0; k < columns; k += kLanes) {
        const int count = static_cast<int>(columns - k < kLanes ? columns - k : kLanes);
        total = fma(load_first(x + k, count), load_first(w + k, count), total);
      }
      float* y = p.y + row * p.y_stride + n;
      *y = p.add ? *y + sum(total) : sum(total);
    }
  }
}

void multiply_bfloat16(const TileProduct& p) {
  const int64_t padded = padded_columns(Form::kBfloat16, p.activations.columns, 0);
  each_tile(p, [&](int64_t row, int64_t tile) {
    const auto* w = static_cast<const Bfloat16*>(p.matrix.values) + tile * kLanes * padded;
    Vec total = zero();
    for (int64_t k = 0; k < padded; k += 2) total = dot_pairs(total, w + k * kLanes, p.activations.halves + row * p.activations.stride + k);
    return total;
  });
}

void multiply_int8(const TileProduct& p) {
  multiply_groups(p, 64, [&](const uint8_t* w, const int8_t* x, int32_t start) {
    Int sum = start_bytes(start);
    for (int64_t k = 0; k < p.activations.group; k += 4) sum = dot_bytes(sum, load_bytes(w + k * kLanes), x + k);
    return sum;
  });
}

void multiply_int4(const TileProduct& p) {
  multiply_groups(p, 32, [&](const uint8_t* w, const int8_t* x, int32_t start) {
    Int sum = start_nibbles(start);
    for (int64_t k = 0; k < p.activations.group; k += 8) {
      const Bytes both = load_bytes(w + k * (kLanes / 2));
      sum = dot_nibbles(dot_nibbles(sum, low_nibbles(both), x + k), high_nibbles(both), x + k + 4);
    }
    return sum;
  });
}

}  // namespace codellama::CODELLAMA_LEVEL
