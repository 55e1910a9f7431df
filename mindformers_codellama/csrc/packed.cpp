// Forms: sizes, shares of the workers.
#include "packed.h"

#include <algorithm>

#include "gemm.h"

namespace codellama {
namespace {

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

bool is_integer(Form form) { return form == Form::kInt8 || form == Form::kInt4; }

// Elements between rows of prepared inputs: an odd number of cache lines, so that the rows of a block fall into different sets.
int64_t padded_stride(int64_t columns, int64_t element_bytes) {
  const int64_t lines = (columns * element_bytes + 63) / 64;
  return (lines | 1) * 64 / element_bytes;
}

// Many rows of float32.
void multiply_by_gemm(const TileProduct& p) {
  const int64_t first = p.begin * kLanes;
  Product product;
  product.m = p.last - p.first;
  product.n = std::min(p.end * kLanes, p.matrix.rows) - first;
  Term term;
  term.k = p.activations.columns;
  term.left.data = p.activations.x + p.first * p.activations.x_stride;
  term.left.stride = p.activations.x_stride;
  term.right.data = static_cast<const float*>(p.matrix.values) + first * p.activations.columns;
  term.right.stride = p.activations.columns;
  term.right.transposed = true;
  product.terms = {term};
  product.result = p.y + p.first * p.y_stride + first;
  product.stride = p.y_stride;
  product.accumulate = p.add;
  gemm(product);
}

}  // namespace

int64_t padded_columns(Form form, int64_t columns, int64_t group) {
  if (form == Form::kFloat32) return columns;
  return round_up(columns, form == Form::kBfloat16 ? 2 : group);
}

int64_t tiles_of(int64_t rows) { return (rows + kLanes - 1) / kLanes; }

int64_t value_bytes(Form form, int64_t rows, int64_t columns, int64_t group) {
  const int64_t padded = padded_columns(form, columns, group);
  switch (form) {
    case Form::kFloat32:
      return rows * columns * 4;
    case Form::kBfloat16:
      return tiles_of(rows) * kLanes * padded * 2;
    case Form::kInt8:
      return tiles_of(rows) * kLanes * padded;
    default:
      return tiles_of(rows) * kLanes * padded / 2;
  }
}

int64_t scale_count(Form form, int64_t rows, int64_t columns, int64_t group) {
  return is_integer(form) ? tiles_of(rows) * kLanes * (padded_columns(form, columns, group) / group) : 0;
}

Activations lay_out(Form form, int64_t group, const float* x, int64_t x_stride, int64_t rows, int64_t columns, Scratch& memory) {
  Activations result;
  result.form = form;
  result.rows = rows;
  result.columns = columns;
  result.group = is_integer(form) ? group : 0;
  result.x = x;
  result.x_stride = x_stride;
  const int64_t padded = padded_columns(form, columns, group);
  if (form == Form::kBfloat16) {
    result.stride = padded_stride(padded, sizeof(Bfloat16));
    result.halves = memory.get<Bfloat16>(rows * result.stride);
  } else if (is_integer(form)) {
    result.stride = padded_stride(padded, 1);
    const int64_t groups = rows * (padded / group);
    int8_t* bytes = memory.get<int8_t>(rows * result.stride + groups * 8);
    result.bytes = bytes;
    result.scales = reinterpret_cast<float*>(bytes + rows * result.stride);
    result.sums = reinterpret_cast<int32_t*>(result.scales + groups);
  }
  return result;
}

void prepare_piece(const Activations& activations, int worker, int workers) {
  const PackedKernels& kernels = packed();
  const int64_t columns = activations.columns;
  if (activations.form == Form::kBfloat16) {
    const Piece rows = piece_of(activations.rows, worker, workers);
    const int64_t padded = padded_columns(activations.form, columns, 0);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      kernels.round_row(activations.x + row * activations.x_stride, columns, padded, activations.halves + row * activations.stride);
    }
  } else if (is_integer(activations.form)) {
    const int64_t group = activations.group;
    const int64_t groups = padded_columns(activations.form, columns, group) / group;
    const Piece piece = piece_of(activations.rows * groups, worker, workers);
    for (int64_t index = piece.begin; index < piece.end; ++index) {
      const int64_t row = index / groups, column = index % groups * group;
      kernels.quantize_group(activations.x + row * activations.x_stride + column, std::min(group, columns - column), group,
                             activations.bytes + row * activations.stride + column, activations.scales + index, activations.sums + index);
    }
  }
}

Activations prepare(Form form, int64_t group, const float* x, int64_t x_stride, int64_t rows, int64_t columns, Scratch& memory) {
  const Activations result = lay_out(form, group, x, x_stride, rows, columns, memory);
  // Below this waking the others takes longer than the work.
  constexpr int64_t kWorthSharing = 16384;
  if (rows * columns < kWorthSharing) {
    prepare_piece(result, 0, 1);
  } else {
    parallel_for([&](int worker, int workers) { prepare_piece(result, worker, workers); });
  }
  return result;
}

void multiply_piece(const Activations& activations, const WeightMatrix& matrix, float* y, int64_t y_stride, bool add, int worker, int workers) {
  if (activations.rows == 0) return;
  // Workers beyond the tiles share rows instead. Not of few float32 rows: a row that is alone is summed in another order, so that
  // results would depend on the number of threads.
  const bool few_floats = activations.form == Form::kFloat32 && activations.rows <= kFewRows;
  const int64_t tiles = tiles_of(matrix.rows);
  const int across = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(workers, tiles)));
  const int down = few_floats ? 1 : workers / across;
  if (worker >= across * down) return;
  const Piece columns = piece_of(tiles, worker % across, across);
  const Piece rows = piece_of(activations.rows, worker / across, down);
  if (columns.begin == columns.end || rows.begin == rows.end) return;
  const TileProduct product = {activations, matrix, y, y_stride, add, columns.begin, columns.end, rows.begin, rows.end};
  if (activations.form == Form::kFloat32 && activations.rows > kFewRows) {
    multiply_by_gemm(product);
  } else {
    packed().multiply[static_cast<int>(activations.form)](product);
  }
}

void multiply(const Activations& activations, const WeightMatrix& matrix, float* y, int64_t y_stride, bool add) {
  parallel_for([&](int worker, int workers) { multiply_piece(activations, matrix, y, y_stride, add, worker, workers); });
}

}  // namespace codellama
