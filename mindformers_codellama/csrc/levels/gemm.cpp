#include "../gemm.h"

#include <algorithm>

#include "../parallel.h"
#include "gemm_pack.h"
#include "tile.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

constexpr int kTileColumns = kTileVecs * kLanes;
constexpr int64_t kTileSize = kTileRows * kTileColumns;

// Steps after which the next panels are taken: a panel of the right factor stays in the first-level cache meanwhile.
constexpr int64_t kStepsAtOnce = 384;

// The sums of all tiles of a block, column by column, each [kTileRows][kTileColumns].
template <class T>
void sum_tiles(const MultiplyPart& part, int64_t row_tiles, int64_t column_tiles, float* sums) {
  constexpr int kValues = kValuesPerLane<T>;
  const int64_t rounds = std::max<int64_t>(1, (part.steps + kStepsAtOnce - 1) / kStepsAtOnce);
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t begin = part.steps * round / rounds;
    const int64_t steps = part.steps * (round + 1) / rounds - begin;
    for (int64_t column = 0; column < column_tiles; ++column) {
      const T* right = static_cast<const T*>(part.right) + (column * kTileVecs * part.right_stride + begin * kLanes) * kValues;
      for (int64_t row = 0; row < row_tiles; ++row) {
        const T* left = static_cast<const T*>(part.left) + (row * part.left_stride + begin * kTileRows) * kValues;
        float* tile = sums + (column * row_tiles + row) * kTileSize;
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

void multiply(Compute compute, const MultiplyPart& part) {
  thread_local Scratch scratch;
  const int64_t row_tiles = (part.rows + kTileRows - 1) / kTileRows;
  const int64_t column_tiles = (part.columns + kTileColumns - 1) / kTileColumns;
  float* sums = scratch.get<float>(row_tiles * column_tiles * kTileSize);
  (compute == Compute::kBfloat16 ? sum_tiles<Bfloat16> : sum_tiles<float>)(part, row_tiles, column_tiles, sums);
  if (part.before_bfloat16) {
    (part.result_bfloat16 ? finish<Bfloat16, Bfloat16> : finish<Bfloat16, float>)(part, row_tiles, sums);
  } else {
    (part.result_bfloat16 ? finish<float, Bfloat16> : finish<float, float>)(part, row_tiles, sums);
  }
}

}  // namespace

extern const GemmKernels gemm_kernels = {kTileRows, kTileColumns, pack<kTileRows>, pack<kLanes>, multiply};

}  // namespace codellama::CODELLAMA_LEVEL
