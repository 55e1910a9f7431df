// Products of int8 and int4 weights: exact integers within a group, float32 over groups.
#include "packed_block.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

struct Int8 {
  static constexpr int kColumns = 4;  // of 64 bytes of weights
  static constexpr int kAhead = 2;    // groups asked for before they are needed
  static Int start(int32_t sum) { return start_bytes(sum); }
  template <int Rows, int Tiles>
  static void add(Int (&sums)[Rows][Tiles], const uint8_t* const* w, int64_t offset, const int8_t* x, int64_t stride) {
    Bytes weights[Tiles];
#pragma GCC unroll 4
    for (int t = 0; t < Tiles; ++t) weights[t] = load_bytes(w[t] + offset);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < Tiles; ++t) sums[r][t] = dot_bytes(sums[r][t], weights[t], x + r * stride);
    }
  }
};

struct Int4 {
  static constexpr int kColumns = 8;
  static constexpr int kAhead = 4;
  static Int start(int32_t sum) { return start_nibbles(sum); }
  template <int Rows, int Tiles>
  static void add(Int (&sums)[Rows][Tiles], const uint8_t* const* w, int64_t offset, const int8_t* x, int64_t stride) {
    Bytes low[Tiles], high[Tiles];
#pragma GCC unroll 4
    for (int t = 0; t < Tiles; ++t) {
      const Bytes both = load_bytes(w[t] + offset);
      low[t] = low_nibbles(both);
      high[t] = high_nibbles(both);
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < Tiles; ++t) sums[r][t] = dot_nibbles(sums[r][t], low[t], x + r * stride);
#pragma GCC unroll 4
      for (int t = 0; t < Tiles; ++t) sums[r][t] = dot_nibbles(sums[r][t], high[t], x + r * stride + 4);
    }
  }
};

template <class Width, int Rows>
struct IntegerKernel {
  static constexpr int kTiles = tiles_beside(Rows);

  static void run(const Block& block) {
    const Activations& a = block.product.activations;
    const WeightMatrix& m = block.product.matrix;
    const int64_t groups = padded_columns(a.form, a.columns, a.group) / a.group;
    const int64_t group_bytes = a.group / Width::kColumns * 64;
    const auto* values = static_cast<const uint8_t*>(m.values);
    const uint8_t* w[kTiles];
    const uint8_t* after[kTiles];
    const Bfloat16* scales[kTiles];
    for (int t = 0; t < kTiles; ++t) {
      const int64_t there = t < block.left ? t : block.left - 1;
      w[t] = values + (block.tile + there) * groups * group_bytes;
      after[t] = values + (block.after + there < block.product.end ? block.after + there : block.after) * groups * group_bytes;
      scales[t] = m.scales + (block.tile + there) * groups * kLanes;
    }
    const int8_t* x = a.bytes + block.row * a.stride;
    const float* x_scales = a.scales + block.row * groups;
    const int32_t* x_sums = a.sums + block.row * groups;
    Vec totals[Rows][kTiles];
    for (auto& row : totals) {
      for (Vec& total : row) total = zero();
    }
    for (int64_t g = 0; g < groups; ++g) {
      Int sums[Rows][kTiles];
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
        for (int t = 0; t < kTiles; ++t) sums[r][t] = Width::start(x_sums[r * groups + g]);
      }
      const bool is_inside = g + Width::kAhead < groups;
      for (int64_t offset = 0; offset < group_bytes; offset += 64, x += Width::kColumns) {
#pragma GCC unroll 4
        for (int t = 0; t < kTiles; ++t) {
          prefetch(is_inside ? w[t] + Width::kAhead * group_bytes + offset : after[t] + offset);
        }
        Width::add(sums, w, offset, x, a.stride);
      }
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) {
        if (!is_inside) after[t] += group_bytes;
        w[t] += group_bytes;
        const Vec scale = load(scales[t] + g * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
          totals[r][t] = totals[r][t] + to_float(sums[r][t]) * (scale * broadcast(x_scales[r * groups + g]));
        }
      }
    }
    for (int t = 0; t < kTiles && t < block.left; ++t) {
      for (int r = 0; r < Rows; ++r) store_tile(block.product, block.row + r, block.tile + t, totals[r][t]);
    }
  }
};

template <int Rows>
using Int8Kernel = IntegerKernel<Int8, Rows>;
template <int Rows>
using Int4Kernel = IntegerKernel<Int4, Rows>;

}  // namespace

void multiply_int8(const TileProduct& p) { run_product<Int8Kernel>(p, p.activations.stride); }

void multiply_int4(const TileProduct& p) { run_product<Int4Kernel>(p, p.activations.stride); }

}  // namespace codellama::CODELLAMA_LEVEL
