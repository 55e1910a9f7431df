// The register tile of a matrix product: the innermost loop of every product that has more than a few rows.
#pragma once

#include "../simd.h"

namespace codellama::CODELLAMA_LEVEL {

// Rows and Vecs of columns of a tile: as many sums as the registers hold beside what is loaded.
#if defined(CODELLAMA_AVX512)
constexpr int kTileRows = 14, kTileVecs = 2;
#elif defined(CODELLAMA_AVX2) || defined(CODELLAMA_NEON)
constexpr int kTileRows = 6, kTileVecs = 1;
#else
constexpr int kTileRows = 2, kTileVecs = 1;
#endif

// Values of k that one lane of a panel holds.
template <class T>
constexpr int kValuesPerLane = static_cast<int>(sizeof(float) / sizeof(T));

// c + column * row of 16 columns and one row: one k of float32, or a pair of bfloat16.
inline Vec multiply_add(Vec c, const float* column, const float* row) { return fma(broadcast(*row), load(column), c); }
inline Vec multiply_add(Vec c, const Bfloat16* column, const Bfloat16* row) { return dot_pairs(c, column, row); }

// sums [Rows][Vecs * 16] = (adds ? sums : 0) + left * right over `steps` steps, a step being one k of float32 or two of bfloat16.
//   left:  [steps][Rows] lanes
//   right: Vecs panels of [steps][16] lanes, `right_stride` elements from one to the next
// A lane is a float or a pair of bfloat16. Packed bfloat16 weights (packed.h) have the form of `right`.
template <int Rows, int Vecs, class T>
void multiply_tile(const T* left, const T* right, int64_t right_stride, int64_t steps, float* sums, bool adds) {
  Vec c[Rows][Vecs];
  for (int row = 0; row < Rows; ++row) {
    for (int vec = 0; vec < Vecs; ++vec) c[row][vec] = adds ? load(sums + (row * Vecs + vec) * kLanes) : zero();
  }
  for (int64_t step = 0; step < steps; ++step) {
    for (int row = 0; row < Rows; ++row) {
      for (int vec = 0; vec < Vecs; ++vec) {
        c[row][vec] = multiply_add(c[row][vec], right + vec * right_stride, left + row * kValuesPerLane<T>);
      }
    }
    left += Rows * kValuesPerLane<T>;
    right += kLanes * kValuesPerLane<T>;
  }
  for (int row = 0; row < Rows; ++row) {
    for (int vec = 0; vec < Vecs; ++vec) store(sums + (row * Vecs + vec) * kLanes, c[row][vec]);
  }
}

}  // namespace codellama::CODELLAMA_LEVEL
