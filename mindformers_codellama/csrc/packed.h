// Weight-only forms and their products: y = x W^T with W in float32, bfloat16, int8 or int4.
//
// Layouts (quantization/packing.py is their truth). Rows of W lie in tiles of 16; rows are padded with zeros to whole tiles,
// columns with zeros to the group (bfloat16: to an even number):
//   bfloat16  [rows/16][columns/2][16 rows][2 columns]
//   int8      [rows/16][columns/4][16 rows][4 columns]   uint8 = q + 128, q in [-127, 127]
//   int4      [rows/16][columns/8][16 rows][4 bytes]     byte j: low nibble column j, high nibble column 4 + j of 8; q + 8, q in [-7, 7]
//   scales    [rows/16][columns/group][16 rows]          bfloat16, w = q * scale
//   float32   [rows][columns], row after row, not padded
//
// Inputs are prepared once for a form and shared by all matrices that take them:
//   float32   used where it lies
//   bfloat16  rounded to the nearest, ties to even
//   int8/4    per row and group: scale = amax / 127, q = round(x * (127 / amax)) ties to even, sum of q; a group whose amax is below
//             2^-100 counts as zero; a group holding a NaN or infinity gets the scale NaN, so that every output of its row is NaN.
// A product of int8/4 is exact in int32 within a group; groups are added in order of columns as float(dot) * (weight scale * input
// scale). One output depends on its own row of x and row of W alone, bit for bit, for bfloat16, int8 and int4: not on the batch.
#pragma once

#include <cstdint>

#include "level.h"
#include "parallel.h"
#include "simd.h"

namespace codellama {

enum class Form { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2, kInt4 = 3 };

// A matrix [rows][columns] in a form; `group` and `scales` are of int8 and int4 alone.
struct WeightMatrix {
  Form form = Form::kFloat32;
  const void* values = nullptr;
  const Bfloat16* scales = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t group = 0;
};

// Whether int8 and int4 take this group.
inline bool is_group(int64_t group) { return group == 64 || group == 128; }

// Columns with their padding, tiles of 16 rows, bytes of the values and number of the scales of a matrix.
int64_t padded_columns(Form form, int64_t columns, int64_t group);
int64_t tiles_of(int64_t rows);
int64_t value_bytes(Form form, int64_t rows, int64_t columns, int64_t group);
int64_t scale_count(Form form, int64_t rows, int64_t columns, int64_t group);

// Rows of an input, prepared for matrices of one form and group. Points into a Scratch (and for float32 at x itself).
struct Activations {
  Form form = Form::kFloat32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t group = 0;
  const float* x = nullptr;  // [rows][columns], x_stride apart
  int64_t x_stride = 0;
  int64_t stride = 0;          // elements between two rows of halves or bytes
  Bfloat16* halves = nullptr;  // bfloat16: [rows][padded columns]
  int8_t* bytes = nullptr;     // int8 and int4: [rows][padded columns]
  float* scales = nullptr;     // [rows][groups]
  int32_t* sums = nullptr;     // [rows][groups], sum of a group's bytes
};

// Takes memory for prepared rows; prepares nothing. `x` must stay where it is until prepared (float32: until multiplied).
Activations lay_out(Form form, int64_t group, const float* x, int64_t x_stride, int64_t rows, int64_t columns, Scratch& memory);

// Prepares the share of one worker, (0, 1) for everything; float32 needs no preparing. All shares must be done before multiplying.
void prepare_piece(const Activations& activations, int worker, int workers);

// lay_out and all pieces, by all threads.
Activations prepare(Form form, int64_t group, const float* x, int64_t x_stride, int64_t rows, int64_t columns, Scratch& memory);

// y[m][n] (+)= sum over k of x[m][k] * w[n][k] for one worker's share of the outputs; y has activations.rows rows of matrix.rows
// floats, y_stride apart. Form, group and columns of both must agree. Called inside parallel_for, or with (0, 1).
void multiply_piece(const Activations& activations, const WeightMatrix& matrix, float* y, int64_t y_stride, bool add, int worker, int workers);

// The same by all threads.
void multiply(const Activations& activations, const WeightMatrix& matrix, float* y, int64_t y_stride, bool add);

// Rows of float32 that are multiplied where they lie; more go through gemm.
constexpr int64_t kFewRows = 8;

// Tiles [begin, end) of a matrix times rows [first, last) of the activations, into y (row 0, column 0 of the whole output).
struct TileProduct {
  const Activations& activations;
  const WeightMatrix& matrix;
  float* y;
  int64_t y_stride;
  bool add;
  int64_t begin, end;
  int64_t first, last;
};

// Of one level.
struct PackedKernels {
  void (*round_row)(const float* x, int64_t columns, int64_t padded, Bfloat16* y);
  // One group of at most `group` values; the rest of its bytes become 0.
  void (*quantize_group)(const float* x, int64_t count, int64_t group, int8_t* bytes, float* scale, int32_t* sum);
  // By Form.
  void (*multiply[4])(const TileProduct& product);
  // Weights: `count` values of a row to q in [-limit, limit] as int8 and the scale; false when one is not finite.
  bool (*quantize_weights)(const float* w, int64_t count, int64_t group, int limit, int8_t* q, Bfloat16* scale);
};

CODELLAMA_DECLARE(PackedKernels, packed_kernels)

inline const PackedKernels& packed() { return CODELLAMA_TABLE(packed_kernels); }

}  // namespace codellama
