// How a product is cut into blocks and shared by the workers.
#include "gemm.h"

#include <algorithm>
#include <atomic>
#include <functional>

#include "parallel.h"
#include "simd.h"

namespace codellama {
namespace {

// Columns and steps of the right factor that are packed at once, for all workers: 3 MB of the last-level cache.
constexpr int64_t kMostColumns = 768;
constexpr int64_t kMostSteps = 1024;

// Rows of the left factor that a worker packs at once, for itself: with kMostSteps half a second-level cache of 1 MB.
constexpr int64_t kWorkerRows = 112;

// Rows after which the columns are packed again; bounds the memory of sums.
constexpr int64_t kMostRows = 4096;

constexpr int64_t kPanelsAtOnce = 8;

int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Size of equal pieces of `count`, in multiples of `step`, of about `most` at most.
int64_t even_size(int64_t count, int64_t most, int64_t step) {
  return up(pieces(count, std::max<int64_t>(1, pieces(count, most))), step);
}

// Calls task(i) for i in [0, count); who is ready takes the next.
void for_tasks(int64_t count, const std::function<void(int64_t)>& task) {
  std::atomic<int64_t> next{0};
  parallel_for([&](int, int) {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i);
  });
}

// A range of k of one term.
struct Pass {
  const Operand *left, *right;
  int64_t first_k, end_k, steps;
};

std::vector<Pass> passes_of(const Product& product) {
  const int64_t values = product.compute == Compute::kBfloat16 ? 2 : 1;
  std::vector<Pass> passes;
  for (const Term& term : product.terms) {
    const int64_t size = even_size(term.k, kMostSteps * values, kLanes * values);
    for (int64_t k = 0; k < term.k; k += size) {
      const int64_t end = std::min(term.k, k + size);
      passes.push_back({&term.left, &term.right, k, end, pieces(end - k, values)});
    }
  }
  static const Operand nothing;
  if (passes.empty()) passes.push_back({&nothing, &nothing, 0, 0, 0});
  return passes;
}

// Rows and columns of the result.
struct Area {
  int64_t row, rows, column, columns;
};

const void* moved(const void* memory, bool bfloat16, int64_t elements) {
  return static_cast<const char*>(memory) + elements * static_cast<int64_t>(bfloat16 ? sizeof(Bfloat16) : sizeof(float));
}

class Multiplication {
 public:
  Multiplication(const Product& product, Scratch& right, Scratch& sums)
      : product_(product), kernels_(CODELLAMA_TABLE(gemm_kernels)), passes_(passes_of(product)), right_(right), sums_(sums) {}

  void run() {
    const int64_t rows = even_size(product_.m, kMostRows, kernels_.tile_rows);
    const int64_t columns = even_size(product_.n, kMostColumns, kernels_.tile_columns);
    for (int64_t row = 0; row < product_.m; row += rows) {
      for (int64_t column = 0; column < product_.n; column += columns) {
        const Area area = {row, std::min(rows, product_.m - row), column, std::min(columns, product_.n - column)};
        for (size_t pass = 0; pass < passes_.size(); ++pass) multiply(pass, area, pack_right(passes_[pass], area));
      }
    }
  }

 private:
  PackPart pack_right(const Pass& pass, const Area& area) {
    const int64_t panels = up(area.columns, kernels_.tile_columns) / kLanes;
    const int64_t stride = (pass.steps + 1) * kLanes;
    PackPart whole = {pass.right, pass.right->transposed, product_.n, area.column, pass.first_k, pass.end_k, 0, 0, nullptr, stride};
    whole.packed = right_.get<float>(panels * stride);
    for_tasks(pieces(panels, kPanelsAtOnce), [&](int64_t task) {
      PackPart part = whole;
      part.first_panel = task * kPanelsAtOnce;
      part.end_panel = std::min(panels, part.first_panel + kPanelsAtOnce);
      kernels_.pack_right(product_.compute, part);
    });
    return whole;
  }

  void multiply(size_t number, const Area& area, const PackPart& right) {
    const Pass& pass = passes_[number];
    MultiplyPart whole = {};
    whole.left = {pass.left, !pass.left->transposed, product_.m, 0, pass.first_k, pass.end_k, 0, 0, nullptr, 0};
    whole.right_stride = right.panel_stride;
    whole.steps = pass.steps;
    choose_memory(number, area, &whole);
    // As many pieces for every worker; with few rows the columns are shared too.
    const int workers = thread_count();
    const int row_pieces = static_cast<int>(std::min(up(pieces(area.rows, kWorkerRows), workers), pieces(area.rows, kernels_.tile_rows)));
    const int column_pieces = row_pieces < workers ? static_cast<int>(pieces(workers, row_pieces)) : 1;
    for_tasks(row_pieces * column_pieces, [&](int64_t task) {
      const Piece rows = piece_of(area.rows, static_cast<int>(task / column_pieces), row_pieces, kernels_.tile_rows);
      const Piece columns = piece_of(area.columns, static_cast<int>(task % column_pieces), column_pieces, kernels_.tile_columns);
      MultiplyPart part = whole;
      part.left.first_line = area.row + rows.begin;
      part.right = static_cast<const float*>(right.packed) + columns.begin / kLanes * right.panel_stride;
      part.rows = rows.end - rows.begin;
      part.columns = columns.end - columns.begin;
      if (part.before != nullptr) part.before = moved(part.before, part.before_bfloat16, rows.begin * part.before_stride + columns.begin);
      part.result = const_cast<void*>(moved(part.result, part.result_bfloat16, rows.begin * part.result_stride + columns.begin));
      kernels_.multiply(product_.compute, part);
    });
  }

  // Where an area's sums come from and go to: a bfloat16 result of several passes is summed in float32 elsewhere first.
  void choose_memory(size_t pass, const Area& area, MultiplyPart* part) {
    const bool is_first = pass == 0;
    const bool is_last = pass + 1 == passes_.size();
    const bool elsewhere = product_.bfloat16 && passes_.size() > 1;
    float* sums = elsewhere ? sums_.get<float>(area.rows * area.columns) : nullptr;
    part->result = const_cast<void*>(moved(product_.result, product_.bfloat16, area.row * product_.stride + area.column));
    part->result_stride = product_.stride;
    part->result_bfloat16 = product_.bfloat16;
    if (!is_first || product_.accumulate) {
      part->before = part->result;
      part->before_stride = part->result_stride;
      part->before_bfloat16 = part->result_bfloat16;
    }
    if (elsewhere && !is_first) {
      part->before = sums;
      part->before_stride = area.columns;
      part->before_bfloat16 = false;
    }
    if (elsewhere && !is_last) {
      part->result = sums;
      part->result_stride = area.columns;
      part->result_bfloat16 = false;
    }
  }

  const Product& product_;
  const GemmKernels& kernels_;
  const std::vector<Pass> passes_;
  Scratch& right_;
  Scratch& sums_;
};

}  // namespace

void gemm(const Product& product) {
  thread_local Scratch right, sums;
  if (product.m > 0 && product.n > 0) Multiplication(product, right, sums).run();
}

}  // namespace codellama
