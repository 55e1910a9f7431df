// Few rows times float32 weights that lie row after row; many rows are the business of gemm.
#include "packed_level.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

constexpr int64_t kAhead = 512;  // weights asked for before they are needed

// Rows of x times Outputs rows of W: sums over k in lanes.
template <int Rows, int Outputs>
void multiply_rows(const TileProduct& p, int64_t row, int64_t n) {
  const int64_t columns = p.activations.columns;
  const float* w = static_cast<const float*>(p.matrix.values) + n * columns;
  const float* x = p.activations.x + row * p.activations.x_stride;
  const int64_t stride = p.activations.x_stride;
  Vec totals[Rows][Outputs];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int o = 0; o < Outputs; ++o) totals[r][o] = zero();
  }
  const auto add = [&](auto&& take, int64_t k) {
    Vec weights[Outputs];
#pragma GCC unroll 4
    for (int o = 0; o < Outputs; ++o) weights[o] = take(w + o * columns + k);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Vec input = take(x + r * stride + k);
#pragma GCC unroll 4
      for (int o = 0; o < Outputs; ++o) totals[r][o] = fma(input, weights[o], totals[r][o]);
    }
  };
  int64_t k = 0;
  for (; k + kLanes <= columns; k += kLanes) {
#pragma GCC unroll 4
    for (int o = 0; o < Outputs; ++o) {
      // The end of these rows is followed by the rows that come next.
      prefetch(w + (k + kAhead < columns ? o * columns + k + kAhead : (Outputs + o - 1) * columns + k + kAhead));
    }
    add([](const float* from) { return load(from); }, k);
  }
  if (k < columns) add([=](const float* from) { return load_first(from, static_cast<int>(columns - k)); }, k);
  for (int r = 0; r < Rows; ++r) {
    float* y = p.y + (row + r) * p.y_stride + n;
    for (int o = 0; o < Outputs; ++o) y[o] = p.add ? y[o] + sum(totals[r][o]) : sum(totals[r][o]);
  }
}

template <int Rows>
void multiply_outputs(const TileProduct& p, int64_t row) {
  constexpr int kOutputs = Rows <= 4 ? 4 : 2;
  const int64_t last = p.end * kLanes < p.matrix.rows ? p.end * kLanes : p.matrix.rows;
  int64_t n = p.begin * kLanes;
  for (; n + kOutputs <= last; n += kOutputs) multiply_rows<Rows, kOutputs>(p, row, n);
  for (; n < last; ++n) multiply_rows<Rows, 1>(p, row, n);
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
