// Few rows times float32 weights that lie row after row; many rows are the business of gemm.
#include "packed_level.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

constexpr int64_t kAhead = 1024;  // weights asked for before they are needed

// Rows of x times Outputs rows of W: sums over k in lanes, those of neighbouring vectors in Parts sums.
template <int Rows, int Outputs, int Parts>
void multiply_rows(const TileProduct& p, int64_t row, int64_t n) {
  const int64_t columns = p.activations.columns;
  const float* w = static_cast<const float*>(p.matrix.values) + n * columns;
  const float* x = p.activations.x + row * p.activations.x_stride;
  const int64_t stride = p.activations.x_stride;
  Vec totals[Parts][Rows][Outputs];
#pragma GCC unroll 4
  for (int part = 0; part < Parts; ++part) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int o = 0; o < Outputs; ++o) totals[part][r][o] = zero();
    }
  }
  const auto add = [&](auto&& take, int part, int64_t k) {
    Vec weights[Outputs];
#pragma GCC unroll 4
    for (int o = 0; o < Outputs; ++o) weights[o] = take(w + o * columns + k);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Vec input = take(x + r * stride + k);
#pragma GCC unroll 4
      for (int o = 0; o < Outputs; ++o) totals[part][r][o] = fma(input, weights[o], totals[part][r][o]);
    }
  };
  const auto take_all = [](const float* from) { return load(from); };
  int64_t k = 0;
  for (; k + Parts * kLanes <= columns; k += Parts * kLanes) {
    // The end of these rows is followed by the rows that come next.
    const float* ahead = w + k + kAhead + (k + kAhead < columns ? 0 : (Outputs - 1) * columns);
#pragma GCC unroll 4
    for (int part = 0; part < Parts; ++part) {
#pragma GCC unroll 4
      for (int o = 0; o < Outputs; ++o) prefetch(ahead + o * columns + part * kLanes);
      add(take_all, part, k + part * kLanes);
    }
  }
  for (; k + kLanes <= columns; k += kLanes) add(take_all, 0, k);
  if (k < columns) add([=](const float* from) { return load_first(from, static_cast<int>(columns - k)); }, 0, k);
  for (int r = 0; r < Rows; ++r) {
    float* y = p.y + (row + r) * p.y_stride + n;
    for (int o = 0; o < Outputs; ++o) {
      Vec total = totals[0][r][o];
      for (int part = 1; part < Parts; ++part) total = total + totals[part][r][o];
      y[o] = p.add ? y[o] + sum(total) : sum(total);
    }
  }
}

template <int Rows>
void multiply_outputs(const TileProduct& p, int64_t row) {
  constexpr int kOutputs = Rows == 1 ? 1 : Rows <= 4 ? 4 : 3;
  constexpr int kParts = Rows == 1 ? 4 : 1;
  const int64_t last = p.end * kLanes < p.matrix.rows ? p.end * kLanes : p.matrix.rows;
  int64_t n = p.begin * kLanes;
  for (; n + kOutputs <= last; n += kOutputs) multiply_rows<Rows, kOutputs, kParts>(p, row, n);
  for (; n < last; ++n) multiply_rows<Rows, 1, kParts>(p, row, n);
}

}  // namespace

void multiply_float32(const TileProduct& p) {
  using Run = void (*)(const TileProduct&, int64_t);
  static constexpr Run kTable[] = {multiply_outputs<1>, multiply_outputs<2>, multiply_outputs<3>, multiply_outputs<4>,
                                   multiply_outputs<5>, multiply_outputs<6>, multiply_outputs<7>, multiply_outputs<8>};
  for (int64_t row = p.first; row < p.last; row += kFewRows) {
    const int64_t rows = p.last - row < kFewRows ? p.last - row : kFewRows;
    kTable[rows - 1](p, row);
  }
}

}  // namespace codellama::CODELLAMA_LEVEL
