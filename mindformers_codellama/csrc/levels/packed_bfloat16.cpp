// Products of bfloat16 weights: pairs of columns, float32 sums in the order of the columns.
#include "packed_block.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

constexpr int64_t kPair = 2 * kLanes;   // weights of one pair of columns of a tile
constexpr int64_t kAhead = 32 * kPair;  // weights asked for before they are needed

template <int Rows>
struct Bfloat16Kernel {
  static constexpr int kTiles = tiles_beside(Rows);

  static void run(const Block& block) {
    const Activations& a = block.product.activations;
    const WeightMatrix& m = block.product.matrix;
    const int64_t tile_size = padded_columns(Form::kBfloat16, a.columns, 0) * kLanes;
    const auto* values = static_cast<const Bfloat16*>(m.values);
    const Bfloat16* w[kTiles];
    const Bfloat16* after[kTiles];
    for (int t = 0; t < kTiles; ++t) {
      const int64_t there = t < block.left ? t : block.left - 1;
      w[t] = values + (block.tile + there) * tile_size;
      after[t] = values + (block.after + there < block.product.end ? block.after + there : block.after) * tile_size;
    }
    Vec totals[Rows][kTiles];
#pragma GCC unroll 16
    for (auto& row : totals) {
#pragma GCC unroll 4
      for (Vec& total : row) total = zero();
    }
    const int64_t inside = tile_size > kAhead ? tile_size - kAhead : 0;
    const Bfloat16* x = a.halves + block.row * a.stride;
    multiply(totals, w, 0, inside, w, kAhead, x, a.stride);
    multiply(totals, w, inside, tile_size, after, -inside, x, a.stride);
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; ++t) {
      if (t >= block.left) break;
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) store_tile(block.product, block.row + r, block.tile + t, totals[r][t]);
    }
  }

  // Weights [begin, end) of each tile; meanwhile those of `next` at the same place plus `distance` are asked for.
  static void multiply(Vec (&totals)[Rows][kTiles], const Bfloat16* const* w, int64_t begin, int64_t end, const Bfloat16* const* next,
                       int64_t distance, const Bfloat16* x, int64_t stride) {
    for (int64_t offset = begin; offset < end; offset += kPair) {
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) prefetch_far(next[t] + offset + distance);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
        for (int t = 0; t < kTiles; ++t) totals[r][t] = dot_pairs(totals[r][t], w[t] + offset, x + r * stride + offset / kLanes);
      }
    }
  }
};

}  // namespace

void multiply_bfloat16(const TileProduct& p) { run_product<Bfloat16Kernel>(p, p.activations.stride * int64_t{sizeof(Bfloat16)}); }

}  // namespace codellama::CODELLAMA_LEVEL
