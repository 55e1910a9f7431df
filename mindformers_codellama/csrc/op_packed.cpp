// Entry points of packed weights: a product, and packing.
//
// `settings` is int32 [form, rows, columns, group] with the numbers of codellama::Form.
#include <algorithm>
#include <atomic>

#include "op.h"
#include "packed.h"

namespace codellama {
namespace {

int64_t bytes_of(const Arguments& in, int index) {
  const int64_t size = in.is(index, "float32") || in.is(index, "int32") ? 4 : in.is(index, "uint16") || in.is(index, "bfloat16") ? 2 : 1;
  return in.elements(index) * size;
}

// Bits of bfloat16, whichever of its two names the tensor has.
Bfloat16* halves(const Arguments& in, int index) {
  return static_cast<Bfloat16*>(in.is(index, "bfloat16") ? in.raw(index) : in.typed(index, "uint16"));
}

// The matrix at tensor `values`, its scales at `scales` and its settings at `settings`, with sizes that agree.
WeightMatrix matrix_of(const Arguments& in, int values, int scales, int settings) {
  in.require(in.elements(settings) == 4, "settings are form, rows, columns and group");
  const int32_t* set = in.ints(settings);
  in.require(set[0] >= 0 && set[0] <= 3, "there is no form " + std::to_string(set[0]));
  WeightMatrix result;
  result.form = static_cast<Form>(set[0]);
  result.rows = set[1];
  result.columns = set[2];
  result.group = set[3];
  in.require(result.rows >= 0 && result.columns >= 0, "rows and columns cannot be negative");
  const bool has_scales = result.form == Form::kInt8 || result.form == Form::kInt4;
  in.require(has_scales ? is_group(result.group) : result.group == 0,
             "groups of " + std::to_string(result.group) + " columns are not known to this form; int8 and int4 know 64 and 128");
  const int64_t wanted = value_bytes(result.form, result.rows, result.columns, result.group);
  in.require(bytes_of(in, values) == wanted, "the values have " + std::to_string(bytes_of(in, values)) + " bytes, must have " + std::to_string(wanted));
  result.values = in.raw(values);
  if (has_scales) {
    in.require(in.elements(scales) == scale_count(result.form, result.rows, result.columns, result.group), "the scales have another size than the values");
    result.scales = halves(in, scales);
  }
  return result;
}

// Rows of w in float32 for the packing below; bfloat16 is widened into `memory`.
const float* row_of(const Arguments& in, int index, int64_t row, int64_t columns, std::vector<float>& memory) {
  if (in.is(index, "float32")) return in.floats(index) + row * columns;
  const Bfloat16* from = halves(in, index) + row * columns;
  memory.resize(static_cast<size_t>(columns));
  for (int64_t k = 0; k < columns; ++k) memory[static_cast<size_t>(k)] = to_float(from[k]);
  return memory.data();
}

// Where a value of row `lane` of a tile goes.
void place_group(Form form, const int8_t* q, int64_t group, int lane, uint8_t* tile_group) {
  if (form == Form::kInt8) {
    for (int64_t k = 0; k < group; ++k) tile_group[k / 4 * 64 + lane * 4 + k % 4] = static_cast<uint8_t>(q[k] + 128);
    return;
  }
  for (int64_t k = 0; k < group; k += 8) {
    uint8_t* to = tile_group + k / 8 * 64 + lane * 4;
    for (int j = 0; j < 4; ++j) to[j] = static_cast<uint8_t>((q[k + j] + 8) | ((q[k + 4 + j] + 8) << 4));
  }
}

// Tiles [begin, end); false when a weight is not finite.
bool quantize_tiles(const Arguments& in, const WeightMatrix& to, int64_t begin, int64_t end, std::atomic<int64_t>& bad_row) {
  const int64_t groups = padded_columns(to.form, to.columns, to.group) / to.group;
  const int64_t group_bytes = kLanes * to.group / (to.form == Form::kInt8 ? 1 : 2);
  auto* values = static_cast<uint8_t*>(const_cast<void*>(to.values));
  auto* scales = const_cast<Bfloat16*>(to.scales);
  std::vector<float> memory;
  for (int64_t row = begin * kLanes; row < end * kLanes; ++row) {
    const int lane = static_cast<int>(row % kLanes);
    const float* w = row < to.rows ? row_of(in, 0, row, to.columns, memory) : nullptr;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t index = row / kLanes * groups + g;
      int8_t q[128] = {};
      scales[index * kLanes + lane] = 0;
      const int64_t count = std::min(to.group, to.columns - g * to.group);
      const int limit = to.form == Form::kInt8 ? 127 : 7;
      if (w != nullptr && !packed().quantize_weights(w + g * to.group, count, to.group, limit, q, scales + index * kLanes + lane)) {
        bad_row = row;
        return false;
      }
      place_group(to.form, q, to.group, lane, values + index * group_bytes);
    }
  }
  return true;
}

// Tiles [begin, end) of the form bfloat16.
bool round_tiles(const Arguments& in, const WeightMatrix& to, int64_t begin, int64_t end, std::atomic<int64_t>& bad_row) {
  const int64_t padded = padded_columns(to.form, to.columns, 0);
  auto* values = static_cast<Bfloat16*>(const_cast<void*>(to.values));
  std::vector<float> memory;
  std::vector<Bfloat16> rounded(static_cast<size_t>(padded) + kLanes);
  for (int64_t row = begin * kLanes; row < end * kLanes; ++row) {
    if (row < to.rows) {
      packed().round_row(row_of(in, 0, row, to.columns, memory), to.columns, padded, rounded.data());
    } else {
      std::fill(rounded.begin(), rounded.end(), Bfloat16{0});
    }
    Bfloat16* tile = values + row / kLanes * kLanes * padded + row % kLanes * 2;
    for (int64_t k = 0; k < padded; ++k) {
      const Bfloat16 value = rounded[static_cast<size_t>(k)];
      if ((value & 0x7f80u) == 0x7f80u) {
        bad_row = row;
        return false;
      }
      tile[k / 2 * 2 * kLanes + k % 2] = value;
    }
  }
  return true;
}

void pack(const Arguments& in, const WeightMatrix& to) {
  in.require(in.elements(0) == to.rows * to.columns, "the weights have another size than rows times columns");
  std::atomic<int64_t> bad_row{-1};
  parallel_for([&](int worker, int workers) {
    const Piece tiles = piece_of(tiles_of(to.rows), worker, workers);
    if (to.form == Form::kBfloat16) {
      round_tiles(in, to, tiles.begin, tiles.end, bad_row);
    } else {
      quantize_tiles(in, to, tiles.begin, tiles.end, bad_row);
    }
  });
  in.require(bad_row < 0, "row " + std::to_string(bad_row.load()) + " holds NaN or an infinite value");
}

}  // namespace
}  // namespace codellama

// PackedLinear(x float32 [..., K], values, scales uint16 or bfloat16 (anything when the form has none), settings
//              [, base float32 like y]) -> y float32 [..., N], the product, plus the base when there is one
CODELLAMA_OP(PackedLinear) {
  const int last = in.count() - 1;
  const bool add = in.count() == 6;
  in.require(in.count() == 5 || add, "takes 5 or 6 tensors, got " + std::to_string(in.count()));
  const float* x = in.floats(0);
  const codellama::WeightMatrix matrix = codellama::matrix_of(in, 1, 2, 3);
  float* y = in.float_output(last);
  in.require(in.last(0) == matrix.columns, "x has " + std::to_string(in.last(0)) + " columns, the weights " + std::to_string(matrix.columns));
  in.require(in.last(last) == matrix.rows && in.rows(last) == in.rows(0), "the output has another shape than x and the weights give");
  if (add) {
    in.require(in.elements(4) == in.elements(last), "the base has another size than the output");
    std::copy_n(in.floats(4), in.elements(4), y);
  }
  static thread_local codellama::Scratch memory;
  const auto prepared = codellama::prepare(matrix.form, matrix.group, x, matrix.columns, in.rows(0), matrix.columns, memory);
  codellama::multiply(prepared, matrix, y, matrix.rows, add);
}

// QuantizeWeights(w float32 or bfloat16 [N, K], settings of int8 or int4) -> (values uint8, scales uint16 or bfloat16), packed
CODELLAMA_OP(QuantizeWeights) {
  in.expect_count(4);
  const codellama::WeightMatrix to = codellama::matrix_of(in, 2, 3, 1);
  // by the form: the scales of no rows may have no address
  in.require(to.form == codellama::Form::kInt8 || to.form == codellama::Form::kInt4, "quantises to int8 and int4 alone");
  codellama::pack(in, to);
}

// PackWeights(w float32 or bfloat16 [N, K], settings of bfloat16) -> values uint16 or bfloat16, packed
CODELLAMA_OP(PackWeights) {
  in.expect_count(3);
  in.typed(1, "int32");
  const codellama::WeightMatrix to = codellama::matrix_of(in, 2, 2, 1);
  in.require(to.form == codellama::Form::kBfloat16, "packs bfloat16 alone");
  codellama::halves(in, 2);
  codellama::pack(in, to);
}
