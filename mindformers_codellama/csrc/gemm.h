// Products of matrices that are packed while they are multiplied: for training, where weights change every step.
#pragma once

#include <cstdint>
#include <vector>

#include "level.h"

namespace codellama {

// On what the products are made; sums are float32 in both cases.
enum class Compute {
  kFloat32,
  kBfloat16,  // operands are rounded to bfloat16 (nearest, ties to even) first
};

// One factor as it lies in memory: rows of `stride` elements, float32 or bfloat16.
//
// Its value at (row, column) is x = data[row * stride + column], or silu(x) * other[row * stride + column] when `other`
// (memory like data) is given: the gate of the feed-forward, made while packing.
struct Operand {
  const void* data = nullptr;
  int64_t stride = 0;
  bool bfloat16 = false;
  bool transposed = false;  // false: the left factor is [M][K] and the right one [K][N] in memory; true: [K][M] and [N][K]
  const void* other = nullptr;
};

// left [M, K] times right [K, N].
struct Term {
  Operand left, right;
  int64_t k = 0;
};

// result [M, N] = sum of the terms, added to what is in `result` when `accumulate`.
struct Product {
  int64_t m = 0, n = 0;
  std::vector<Term> terms;
  Compute compute = Compute::kFloat32;
  void* result = nullptr;
  int64_t stride = 0;     // of the result's rows, in elements
  bool bfloat16 = false;  // type of the result
  bool accumulate = false;
};

// Runs on all workers; inside parallel_for in the calling thread alone. m, n and every k may be 0.
// The sum over k is made in blocks whose order does not depend on the number of threads: results are the same for any number.
void gemm(const Product& product);

// What gemm() asks of a level.
//
// A factor is packed in panels of some lines (rows of the left factor, columns of the right one): [steps][lines] lanes, a
// lane being one float or a pair of bfloat16, a step one k or two. Lines and k that do not exist are zeros.
struct PackPart {
  const Operand* operand;
  bool lines_are_rows;             // of memory, so that k runs along them
  int64_t lines;                   // that exist
  int64_t first_line;              // of panel 0
  int64_t first_k, end_k;
  int64_t first_panel, end_panel;  // to be packed by this call
  void* packed;                    // panel 0
  int64_t panel_stride;            // lanes from one panel to the next: at least steps * lines + 16, for stores of 16 lanes
};

// rows x columns of the result, by one worker.
struct MultiplyPart {
  PackPart left;         // its lines, operand and range of k; the rest is filled in
  const void* right;     // the first panel of the columns
  int64_t right_stride;  // lanes from one panel to the next
  int64_t steps;
  int64_t rows, columns;
  const void* before;    // added to the product; nothing when null
  int64_t before_stride;
  bool before_bfloat16;
  void* result;
  int64_t result_stride;
  bool result_bfloat16;
};

struct GemmKernels {
  int64_t tile_rows, tile_columns;                         // of the register tile
  void (*pack_right)(Compute compute, const PackPart& part);  // in panels of 16; tile_columns / 16 of them belong together
  void (*multiply)(Compute compute, const MultiplyPart& part);
};

CODELLAMA_DECLARE(GemmKernels, gemm_kernels)

}  // namespace codellama
