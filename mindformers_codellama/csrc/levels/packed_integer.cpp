// Products of int8 and int4 weights: exact integers within a group, float32 over groups.
#include "packed_block.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

constexpr int64_t kScalesAhead = 16;  // groups whose scales are asked for before they are needed

// How weights are asked for before they are needed: so many bytes ahead, and into which cache. With few rows a product waits for
// memory. Asked for into the nearest cache, weights come no faster than the misses that cache can have on their way (int8 on two
// threads of Zen 4: 30 GB/s of 34); into the one behind it they do, with what the machine asks for by itself. Half of that is
// enough for int4, which has more to compute.
template <class Width, int Rows>
struct Ahead {
  static constexpr bool kIsFew = Rows <= 4;
  static constexpr bool kFar = kIsFew && Width::kParts == 1;
  static constexpr int64_t kBytes = kFar ? 4096 : kIsFew ? 8192 : 2048;
  static void ask(const void* weights) {
    if constexpr (kFar) {
      prefetch_far(weights);
    } else {
      prefetch(weights);
    }
  }
};

struct Int8 {
  static constexpr int kColumns = 4;  // of 64 bytes of weights
  static constexpr int kParts = 1;    // dots of 4 columns in 64 bytes
  static Int start(int32_t sum) { return start_bytes(sum); }
  static Int dot(Int sum, Bytes w, const int8_t* x) { return dot_bytes(sum, w, x); }
  static Bytes part(Bytes w, int) { return w; }
};

struct Int4 {
  static constexpr int kColumns = 8;
  static constexpr int kParts = 2;
  static Int start(int32_t sum) { return start_nibbles(sum); }
  static Int dot(Int sum, Bytes w, const int8_t* x) { return dot_nibbles(sum, w, x); }
  static Bytes part(Bytes w, int index) { return index == 0 ? low_nibbles(w) : high_nibbles(w); }
};

// One group of Tiles tiles: weights and scales of each, and what to ask for meanwhile.
template <int Tiles>
struct GroupOfTiles {
  const uint8_t* w[Tiles];
  const uint8_t* ahead[Tiles];
  const Bfloat16* scales[Tiles];
  const Bfloat16* scales_ahead[Tiles];
};

// The inputs of one group: bytes `stride` apart; scales and sums `groups` apart.
struct GroupOfInputs {
  const int8_t* bytes;
  int64_t stride;
  const float* scales;
  const int32_t* sums;
  int64_t groups;
};

// totals [Rows][Tiles][16] += float(dot) * (weight scale * input scale) of one group.
// Not inlined: the totals stay in memory between groups and all registers are there for the integers.
template <class Width, int Rows, int Tiles>
__attribute__((noinline)) void add_group(const GroupOfTiles<Tiles>& tiles, const GroupOfInputs& x, int64_t bytes, float* totals) {
  Int sums[Rows][Tiles];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < Tiles; ++t) sums[r][t] = Width::start(x.sums[r * x.groups]);
  }
  const int8_t* inputs = x.bytes;
  for (int64_t offset = 0; offset < bytes; offset += 64) {
    Bytes weights[Tiles];
#pragma GCC unroll 4
    for (int t = 0; t < Tiles; ++t) {
      Ahead<Width, Rows>::ask(tiles.ahead[t] + offset);
      weights[t] = load_bytes(tiles.w[t] + offset);
    }
#pragma GCC unroll 2
    for (int part = 0; part < Width::kParts; ++part, inputs += 4) {
      Bytes parts[Tiles];
#pragma GCC unroll 4
      for (int t = 0; t < Tiles; ++t) parts[t] = Width::part(weights[t], part);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
        for (int t = 0; t < Tiles; ++t) sums[r][t] = Width::dot(sums[r][t], parts[t], inputs + r * x.stride);
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < Tiles; ++t) {
    prefetch(tiles.scales_ahead[t]);
    const Vec scale = load(tiles.scales[t]);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      float* total = totals + (r * Tiles + t) * kLanes;
      store(total, load(total) + to_float(sums[r][t]) * (scale * broadcast(x.scales[r * x.groups])));
    }
  }
}

// The group of a matrix that follows as number `g` when its tile has `groups` from `first` on and another tile comes `after`.
inline int64_t later(int64_t g, int64_t groups, int64_t first, int64_t after) {
  if (g < groups) return first + g;
  return g < 2 * groups ? after + g - groups : after;
}

template <class Width, int Rows>
struct IntegerKernel {
  static constexpr int kTiles = integer_tiles_beside(Rows, Width::kParts);

  static void run(const Block& block) {
    const Activations& a = block.product.activations;
    const WeightMatrix& m = block.product.matrix;
    const int64_t groups = padded_columns(a.form, a.columns, a.group) / a.group;
    const int64_t group_bytes = a.group / Width::kColumns * 64;
    const int64_t ahead = Ahead<Width, Rows>::kBytes / group_bytes;
    const auto* values = static_cast<const uint8_t*>(m.values);
    GroupOfTiles<kTiles> tiles;
    int64_t first[kTiles], after[kTiles];  // groups of the matrix
    for (int t = 0; t < kTiles; ++t) {
      first[t] = (block.tile + (t < block.left ? t : block.left - 1)) * groups;
      after[t] = (block.after + t < block.product.end ? block.after + t : block.after) * groups;
    }
    GroupOfInputs x = {a.bytes + block.row * a.stride, a.stride, a.scales + block.row * groups, a.sums + block.row * groups, groups};
    alignas(64) float totals[Rows * kTiles * kLanes] = {};
    for (int64_t g = 0; g < groups; ++g) {
      for (int t = 0; t < kTiles; ++t) {
        tiles.w[t] = values + (first[t] + g) * group_bytes;
        tiles.ahead[t] = values + later(g + ahead, groups, first[t], after[t]) * group_bytes;
        tiles.scales[t] = m.scales + (first[t] + g) * kLanes;
        tiles.scales_ahead[t] = m.scales + later(g + kScalesAhead, groups, first[t], after[t]) * kLanes;
      }
      add_group<Width, Rows, kTiles>(tiles, x, group_bytes, totals);
      x.bytes += a.group;
      ++x.scales;
      ++x.sums;
    }
    for (int t = 0; t < kTiles && t < block.left; ++t) {
      for (int r = 0; r < Rows; ++r) store_tile(block.product, block.row + r, block.tile + t, load(totals + (r * kTiles + t) * kLanes));
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
