#include "../gemm.h"

#include <algorithm>
#include <type_traits>

#include "../parallel.h"
#include "gemm_pack.h"
#include "tile.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

constexpr int kTileColumns = kTileVecs * kLanes;
constexpr int64_t kTileSize = kTileRows * kTileColumns;

// Columns whose sums stay in the second-level cache, beside the packed rows.
constexpr int64_t kColumnsAtOnce = 384;

// Steps after which the next panels are taken: a panel of the right factor stays in the first-level cache meanwhile.
constexpr int64_t kStepsAtOnce = 384;

// Packed rows of one worker.
struct Rows {
  const void* panels;
  int64_t stride, tiles;
};

Rows pack_left(Compute compute, const MultiplyPart& part) {
  thread_local Scratch scratch;
  PackPart left = part.left;
  left.end_panel = (part.rows + kTileRows - 1) / kTileRows;
  left.panel_stride = (part.steps * kTileRows + 2 * kLanes - 1) / kLanes * kLanes;
  left.packed = scratch.get<float>(left.end_panel * left.panel_stride);
  pack<kTileRows>(compute, left);
  return {left.packed, left.panel_stride, left.end_panel};
}

// The sums of all tiles of a block, column by column, each [kTileRows][kTileColumns].
template <class T>
void sum_tiles(const MultiplyPart& part, const Rows& rows, int64_t column_tiles, float* sums) {
  constexpr int kValues = kValuesPerLane<T>;
  const int64_t rounds = std::max<int64_t>(1, (part.steps + kStepsAtOnce - 1) / kStepsAtOnce);
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t begin = part.steps * round / rounds;
    const int64_t steps = part.steps * (round + 1) / rounds - begin;
    for (int64_t column = 0; column < column_tiles; ++column) {
      const T* right = static_cast<const T*>(part.right) + (column * kTileVecs * part.right_stride + begin * kLanes) * kValues;
      for (int64_t row = 0; row < rows.tiles; ++row) {
        const T* left = static_cast<const T*>(rows.panels) + (row * rows.stride + begin * kTileRows) * kValues;
        float* tile = sums + (column * rows.tiles + row) * kTileSize;
        multiply_tile<kTileRows, kTileVecs>(left, right, part.right_stride * kValues, steps, tile, round > 0);
      }
    }
  }
}

// One row of the result from its tiles: `sums` is that row in the first of them, `stride` floats from one tile to the next.
template <class Before, class Result>
void finish_row(const float* sums, int64_t stride, const Before* before, Result* result, int64_t columns) {
  for (int64_t column = 0; column < columns; column += kLanes) {
    const Vec sum = load(sums + column / kTileColumns * stride + column % kTileColumns);
    const int count = static_cast<int>(std::min<int64_t>(columns - column, kLanes));
    if (count == kLanes) {
      store(result + column, before == nullptr ? sum : load(before + column) + sum);
    } else {
      store_first(result + column, before == nullptr ? sum : load_first(before + column, count) + sum, count);
    }
  }
}

template <class Before, class Result>
void finish(const MultiplyPart& part, int64_t row_tiles, const float* sums) {
  for (int64_t row = 0; row < part.rows; ++row) {
    const float* first = sums + row / kTileRows * kTileSize + row % kTileRows * kTileColumns;
    const Before* before = part.before == nullptr ? nullptr : static_cast<const Before*>(part.before) + row * part.before_stride;
    finish_row(first, row_tiles * kTileSize, before, static_cast<Result*>(part.result) + row * part.result_stride, part.columns);
  }
}

// Up to kColumnsAtOnce columns.
void multiply_columns(Compute compute, const MultiplyPart& part, const Rows& rows) {
  thread_local Scratch scratch;
  const int64_t column_tiles = (part.columns + kTileColumns - 1) / kTileColumns;
  float* sums = scratch.get<float>(rows.tiles * column_tiles * kTileSize);
  (compute == Compute::kBfloat16 ? sum_tiles<Bfloat16> : sum_tiles<float>)(part, rows, column_tiles, sums);
  if (part.before_bfloat16) {
    (part.result_bfloat16 ? finish<Bfloat16, Bfloat16> : finish<Bfloat16, float>)(part, rows.tiles, sums);
  } else {
    (part.result_bfloat16 ? finish<float, Bfloat16> : finish<float, float>)(part, rows.tiles, sums);
  }
}

template <class Pointer>
Pointer moved(Pointer memory, bool bfloat16, int64_t elements) {
  using Bytes = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char*, char*>;
  return memory == nullptr ? nullptr : static_cast<Bytes>(memory) + elements * (bfloat16 ? sizeof(Bfloat16) : sizeof(float));
}

void multiply(Compute compute, const MultiplyPart& part) {
  const Rows rows = pack_left(compute, part);
  for (int64_t column = 0; column < part.columns; column += kColumnsAtOnce) {
    MultiplyPart some = part;
    some.columns = std::min(kColumnsAtOnce, part.columns - column);
    some.right = static_cast<const float*>(part.right) + column / kLanes * part.right_stride;
    some.before = moved(part.before, part.before_bfloat16, column);
    some.result = moved(part.result, part.result_bfloat16, column);
    multiply_columns(compute, some, rows);
  }
}

}  // namespace

extern const GemmKernels gemm_kernels = {kTileRows, kTileColumns, pack<kLanes>, multiply};

}  // namespace codellama::CODELLAMA_LEVEL
