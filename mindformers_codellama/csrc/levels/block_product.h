// Products of small blocks that lie in scratch memory, and the layouts their factors need: what attention is made of.
//
// A lane is 32 bits: one float, or two bfloat16 that lie side by side along the direction that is summed over. Matrices of
// lanes are row-major; the left factor has lanes along its rows, [rows][steps]; the right one along its columns, [steps][columns].
#pragma once

#include "tile.h"

namespace codellama::CODELLAMA_LEVEL {

// Rows and Vecs of one register tile; rows of every left factor are a multiple of kProductRows.
#if defined(CODELLAMA_AVX512)
constexpr int kProductRows = 8, kProductVecs = 2;
#elif defined(CODELLAMA_AVX2) || defined(CODELLAMA_NEON)
constexpr int kProductRows = 4, kProductVecs = 1;
#else
constexpr int kProductRows = 2, kProductVecs = 1;
#endif

// 16 lanes, whatever they hold, in memory that is also used as bfloat16.
inline Vec load_lanes(const void* p) {
  Vec result;
  std::memcpy(&result, p, sizeof(result));
  return result;
}
inline void store_lanes(void* p, Vec a) { std::memcpy(p, &a, sizeof(a)); }

// A matrix of lanes.
template <class T>
struct LaneMatrix {
  T* data;
  int64_t stride;  // lanes from one row to the next

  T* at(int64_t row, int64_t lane) const { return data + (row * stride + lane) * kValuesPerLane<T>; }
};

// sums [Rows][Vecs * 16] (+)= left [Rows][steps] * right [steps][Vecs * 16], one register tile.
template <int Rows, int Vecs, class T>
inline void product_tile(LaneMatrix<T> left, LaneMatrix<T> right, int64_t steps, float* sums, int64_t stride, bool adds) {
  Vec c[Rows][Vecs];
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
    for (int vec = 0; vec < Vecs; ++vec) c[row][vec] = zero();
  }
  const T* column = right.data;
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
      for (int vec = 0; vec < Vecs; ++vec) {
        c[row][vec] = multiply_add(c[row][vec], column + vec * kLanes * kValuesPerLane<T>, left.at(row, step));
      }
    }
    column += right.stride * kValuesPerLane<T>;
  }
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 4
    for (int vec = 0; vec < Vecs; ++vec) {
      float* to = sums + row * stride + vec * kLanes;
      store(to, adds ? load(to) + c[row][vec] : c[row][vec]);
    }
  }
}

// What a block on the diagonal needs not compute, because keys behind a query are hidden from it.
enum class Causal {
  kNot,                 // everything is needed
  kColumnsFromRow,      // rows are keys and columns queries: only columns from the row's number on; others become 0
  kStepsFromRow,        // rows are keys, sums run over queries: those before the row's number are 0
  kStepsBeforeColumns,  // columns are queries, sums run over keys: those behind the column's number are 0
};

// sums [rows][columns], rows `stride` apart, (+)= left [rows][steps] * right [steps][columns]; rows is a multiple of
// kProductRows, columns of 16. Every sum over the steps is made in order and then added, whatever the tile.
template <class T>
inline void block_product(LaneMatrix<T> left, LaneMatrix<T> right, int64_t rows, int64_t columns, int64_t steps, float* sums,
                          int64_t stride, bool adds, Causal causal = Causal::kNot) {
  for (int64_t column = 0; column < columns;) {
    const bool is_wide = column + kProductVecs * kLanes <= columns;
    const int64_t next = column + (is_wide ? kProductVecs * kLanes : kLanes);
    for (int64_t row = 0; row < rows; row += kProductRows) {
      const int64_t begin = causal == Causal::kStepsFromRow ? row / kValuesPerLane<T> : 0;
      int64_t end = causal == Causal::kStepsBeforeColumns && next / kValuesPerLane<T> < steps ? next / kValuesPerLane<T> : steps;
      if (causal == Causal::kColumnsFromRow && next <= row) end = 0;
      const LaneMatrix<T> strip{left.at(row, begin), left.stride}, panel{right.at(begin, column), right.stride};
      float* to = sums + row * stride + column;
      if (is_wide) {
        product_tile<kProductRows, kProductVecs>(strip, panel, end - begin, to, stride, adds);
      } else {
        product_tile<kProductRows, 1>(strip, panel, end - begin, to, stride, adds);
      }
    }
    column = next;
  }
}

// Writes 16 columns of two rows that follow one another, as a right factor summed over rows has them: `lanes` is that matrix,
// `row` (even) the first of both.
inline void store_row_pair(LaneMatrix<float> lanes, int64_t row, int64_t column, Vec even, Vec odd) {
  store(lanes.at(row, column), even);
  store(lanes.at(row + 1, column), odd);
}
inline void store_row_pair(LaneMatrix<Bfloat16> lanes, int64_t row, int64_t column, Vec even, Vec odd) {
  store_lanes(lanes.at(row / 2, column), interleave_bfloat16(even, odd));
}

// Writes 32 values of a row of a left factor, from value `i` on.
inline void store_row(LaneMatrix<float> lanes, int64_t row, int64_t i, Vec first, Vec second) {
  store(lanes.at(row, 0) + i, first);
  store(lanes.at(row, 0) + i + kLanes, second);
}
inline void store_row(LaneMatrix<Bfloat16> lanes, int64_t row, int64_t i, Vec first, Vec second) {
  store_lanes(lanes.at(row, 0) + i, join_bfloat16(first, second));
}

// block [rows][columns] of floats to a left factor summed over its columns; columns a multiple of 16.
template <class T>
inline void put_rows(const float* block, int64_t rows, int64_t columns, LaneMatrix<T> to) {
  for (int64_t row = 0; row < rows; ++row, block += columns) {
    int64_t i = 0;
    for (; i + 2 * kLanes <= columns; i += 2 * kLanes) store_row(to, row, i, load(block + i), load(block + i + kLanes));
    if (i < columns) store(to.at(row, 0) + i, load(block + i));
  }
}

// block [rows][columns] of floats to a right factor summed over its rows; rows even, columns a multiple of 16.
template <class T>
inline void put_row_pairs(const float* block, int64_t rows, int64_t columns, LaneMatrix<T> to) {
  for (int64_t row = 0; row < rows; row += 2, block += 2 * columns) {
    for (int64_t i = 0; i < columns; i += kLanes) store_row_pair(to, row, i, load(block + i), load(block + columns + i));
  }
}

// to [columns][rows] = from [rows][columns], in lanes; rows is a multiple of 16, columns of 8.
template <class T>
inline void transpose_lanes(LaneMatrix<T> from, int64_t rows, int64_t columns, LaneMatrix<T> to) {
  const int64_t whole = columns / kLanes * kLanes;
  for (int64_t row = 0; row < rows; row += kLanes) {
    for (int64_t column = 0; column < whole; column += kLanes) {
      Vec square[kLanes];
      for (int i = 0; i < kLanes; ++i) square[i] = load_lanes(from.at(row + i, column));
      transpose(square);
      for (int i = 0; i < kLanes; ++i) store_lanes(to.at(column + i, row), square[i]);
    }
    for (int64_t column = whole; column < columns; ++column) {
      for (int i = 0; i < kLanes; ++i) std::memcpy(to.at(column, row + i), from.at(row + i, column), sizeof(float));
    }
  }
}

// 2^y, relative error below 2e-7, for y <= 127; exactly 0 below -126.5; NaN stays NaN.
// A polynomial of degree 5 for 2^f, |f| <= 1/2, with the smallest largest relative error (fitted, 9e-8).
inline Vec exp2_or_zero(Vec y) {
  y = max(broadcast(-127.0f), y);  // this order: max gives its second argument when one is NaN
  const Vec n = round(y);
  const Vec f = y - n;
  Vec p = fma(broadcast(0.0013264727f), f, broadcast(0.009671513f));
  p = fma(p, f, broadcast(0.055507336f));
  p = fma(p, f, broadcast(0.24022242f));
  p = fma(p, f, broadcast(0.693147f));
  p = fma(p, f, broadcast(1.0f));
  return p * power_of_two(n);  // of n = -127 all bits are 0
}

}  // namespace codellama::CODELLAMA_LEVEL
