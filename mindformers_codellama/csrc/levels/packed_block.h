// What the products of all forms share: blocks of rows and tiles that fill the registers, and the way through a product.
#pragma once

#include <utility>

#include "packed_level.h"

namespace codellama::CODELLAMA_LEVEL {

// Rows of a block when there are few of them or many, and tiles beside each other: as many sums as the registers hold. With
// few rows int4, whose 64 bytes have two parts, takes one tile after the other, which reads faster; the others need several to hide
// their latency.
#if defined(CODELLAMA_AVX512)
constexpr int kMostRows = 16, kGoodRows = 12;
constexpr int tiles_beside(int rows) { return rows <= 4 ? 4 : rows <= 12 ? 2 : 1; }
constexpr int integer_tiles_beside(int rows, int parts) { return rows <= 4 && parts == 2 ? 1 : tiles_beside(rows); }
#elif defined(CODELLAMA_AVX2) || defined(CODELLAMA_NEON)
constexpr int kMostRows = 4, kGoodRows = 4;
constexpr int tiles_beside(int rows) { return rows <= 2 ? 2 : 1; }
constexpr int integer_tiles_beside(int rows, int) { return tiles_beside(rows); }
#else
constexpr int kMostRows = 2, kGoodRows = 2;
constexpr int tiles_beside(int) { return 1; }
constexpr int integer_tiles_beside(int, int) { return 1; }
#endif

// One block: rows from `row` on, tiles from `tile` on. `left` tiles are there; those beyond are computed again and not stored.
// `after` is a tile that will be read next.
struct Block {
  const TileProduct& product;
  int64_t row;
  int64_t tile;
  int64_t left;
  int64_t after;
};

// Inputs of at most this size are multiplied with all tiles before the next rows follow: they stay in the cache.
constexpr int64_t kCachedInputs = 2 << 20;

inline void store_tile(const TileProduct& p, int64_t row, int64_t tile, Vec value) {
  float* y = p.y + row * p.y_stride + tile * kLanes;
  const int64_t left = p.matrix.rows - tile * kLanes;
  const int count = static_cast<int>(left < kLanes ? left : kLanes);
  store_first(y, p.add ? load_first(y, count) + value : value, count);
}

// A kernel for each number of rows from 1 on: Kernel<Rows>::run(block) multiplies Rows rows and Kernel<Rows>::kTiles tiles.
struct KernelOfRows {
  void (*run)(const Block&);
  int tiles;
};
template <template <int> class Kernel, size_t... I>
const KernelOfRows& kernel_of(int rows, std::index_sequence<I...>) {
  static constexpr KernelOfRows kTable[] = {{Kernel<static_cast<int>(I) + 1>::run, Kernel<static_cast<int>(I) + 1>::kTiles}...};
  return kTable[rows - 1];
}
template <template <int> class Kernel>
const KernelOfRows& kernel_of(int rows) {
  return kernel_of<Kernel>(rows, std::make_index_sequence<kMostRows>());
}

// Rows [first, last), at most kMostRows or in blocks of nearly equal size: every panel of tiles is read once, and again from the cache.
template <template <int> class Kernel>
void run_rows(const TileProduct& p, int64_t first, int64_t last) {
  const int64_t rows = last - first;
  const int64_t blocks = rows <= kMostRows ? 1 : (rows + kGoodRows - 1) / kGoodRows;
  const int64_t panel = blocks == 1 ? kernel_of<Kernel>(static_cast<int>(rows)).tiles : 2;
  for (int64_t tile = p.begin; tile < p.end; tile += panel) {
    const int64_t end = tile + panel < p.end ? tile + panel : p.end;
    const int64_t after = end < p.end ? end : tile;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t row = first + rows * block / blocks;
      const int count = static_cast<int>(first + rows * (block + 1) / blocks - row);
      const KernelOfRows& kernel = kernel_of<Kernel>(count);
      for (int64_t t = tile; t < end; t += kernel.tiles) kernel.run({p, row, t, end - t, after});
    }
  }
}

// The whole product; `row_bytes` of prepared inputs.
template <template <int> class Kernel>
void run_product(const TileProduct& p, int64_t row_bytes) {
  int64_t rows = kCachedInputs / (row_bytes > 0 ? row_bytes : 1) / kGoodRows * kGoodRows;
  if (rows < 8 * kGoodRows) rows = 8 * kGoodRows;
  for (int64_t first = p.first; first < p.last; first += rows) {
    run_rows<Kernel>(p, first, first + rows < p.last ? first + rows : p.last);
  }
}

}  // namespace codellama::CODELLAMA_LEVEL
