// Packing a factor of a product into panels, with what is done to its values on the way.
#pragma once

#include <algorithm>

#include "../gemm.h"
#include "../simd.h"
#include "tile.h"

namespace codellama::CODELLAMA_LEVEL {

// Reads 16 values of an operand, all of one row, as float32.
template <class Memory, bool gated>
class Reader {
 public:
  explicit Reader(const Operand& operand) : operand_(operand) {}

  // Columns [column, column + count) of a row; lanes from `count` on are 0, and nothing behind them is read.
  Vec read(int64_t row, int64_t column, int64_t count) const {
    const int first = static_cast<int>(std::min<int64_t>(count, kLanes));
    const int64_t place = row * operand_.stride + column;
    const Vec x = get(static_cast<const Memory*>(operand_.data) + place, first);
    if constexpr (gated) return silu(x) * get(static_cast<const Memory*>(operand_.other) + place, first);
    return x;
  }

 private:
  template <class T>
  static Vec get(const T* p, int count) {
    return count == kLanes ? load(p) : load_first(p, count);
  }

  const Operand& operand_;
};

// 16 lanes of a line that is a row of memory, from its value k on; `left` values (1 or more) are there.
template <class T, class Source>
Vec lanes_along(const Source& source, int64_t line, int64_t k, int64_t left) {
  const Vec first = source.read(line, k, left);
  if constexpr (sizeof(T) == sizeof(float)) return first;
  return join_bfloat16(first, left > kLanes ? source.read(line, k + kLanes, left - kLanes) : zero());
}

// One lane each of up to 16 lines that are columns of memory; `left` values of k (1 or more) are there.
template <class T, class Source>
Vec lanes_across(const Source& source, int64_t line, int64_t count, int64_t k, int64_t left) {
  const Vec first = source.read(k, line, count);
  if constexpr (sizeof(T) == sizeof(float)) return first;
  return interleave_bfloat16(first, left > 1 ? source.read(k + 1, line, count) : zero());
}

// Panels whose lines are rows of memory: blocks of 16 steps are transposed. Every store but the last of a panel writes
// lanes of the next step, which are then overwritten.
template <int Width, class T, class Source>
void pack_rows(const Source& source, const PackPart& part) {
  constexpr int kValues = kValuesPerLane<T>;
  for (int64_t panel = part.first_panel; panel < part.end_panel; ++panel) {
    const int64_t line = part.first_line + panel * Width;
    const int64_t count = std::min<int64_t>(part.lines - line, Width);
    float* out = static_cast<float*>(part.packed) + panel * part.panel_stride;
    for (int64_t k = part.first_k; k < part.end_k; k += kLanes * kValues, out += kLanes * Width) {
      const int64_t left = part.end_k - k;
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) block[i] = i < Width && i < count ? lanes_along<T>(source, line + i, k, left) : zero();
      transpose(block);
      const int64_t steps = std::min<int64_t>((left + kValues - 1) / kValues, kLanes);
      for (int64_t step = 0; step < steps; ++step) store(out + step * Width, block[step]);
    }
  }
}

// Panels whose lines are columns of memory: some rows of memory at a time go to all panels.
template <int Width, class T, class Source>
void pack_columns(const Source& source, const PackPart& part) {
  constexpr int kValues = kValuesPerLane<T>;
  constexpr int64_t kRowsAtOnce = 8;
  for (int64_t start = part.first_k; start < part.end_k; start += kRowsAtOnce) {
    const int64_t end = std::min(part.end_k, start + kRowsAtOnce);
    for (int64_t panel = part.first_panel; panel < part.end_panel; ++panel) {
      const int64_t line = part.first_line + panel * Width;
      const int64_t count = std::max<int64_t>(part.lines - line, 0);
      float* out = static_cast<float*>(part.packed) + panel * part.panel_stride + (start - part.first_k) / kValues * Width;
      for (int64_t k = start; k < end; k += kValues, out += Width) {
        store(out, count > 0 ? lanes_across<T>(source, line, count, k, part.end_k - k) : zero());
      }
    }
  }
}

template <int Width, class T, class Source>
void pack_from(const Source& source, const PackPart& part) {
  part.lines_are_rows ? pack_rows<Width, T>(source, part) : pack_columns<Width, T>(source, part);
}

template <int Width, class T, class Memory>
void pack_memory(const PackPart& part) {
  const Operand& operand = *part.operand;
  if (operand.other != nullptr) return pack_from<Width, T>(Reader<Memory, true>(operand), part);
  pack_from<Width, T>(Reader<Memory, false>(operand), part);
}

// Packs panels of `Width` lines for products of T.
template <int Width, class T>
void pack_as(const PackPart& part) {
  part.operand->bfloat16 ? pack_memory<Width, T, Bfloat16>(part) : pack_memory<Width, T, float>(part);
}

template <int Width>
void pack(Compute compute, const PackPart& part) {
  compute == Compute::kBfloat16 ? pack_as<Width, Bfloat16>(part) : pack_as<Width, float>(part);
}

}  // namespace codellama::CODELLAMA_LEVEL
