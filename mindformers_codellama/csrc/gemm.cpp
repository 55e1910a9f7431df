// How a product is cut into blocks and shared by the workers.
#include "gemm.h"

#include <algorithm>
#include <atomic>
#include <functional>

#include "parallel.h"
#include "simd.h"

namespace codellama {
namespace {

// Packed at once of each factor: at most 9 MB, for the last-level cache.
constexpr int64_t kMostLines = 2304;
constexpr int64_t kMostSteps = 1024;

// Taken by a worker at once: sums, rows and a round of the columns' steps stay in a second-level cache of 1 MB.
constexpr int64_t kBlockRows = 112;
constexpr int64_t kBlockColumns = 384;

constexpr int64_t kPanelsAtOnce = 4;
constexpr int64_t kTasksPerWorker = 4;

int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Size of equal pieces of `count`, in multiples of `step`, of about `most` each at most.
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
  const Term* term;
  int64_t first_k, end_k, steps;
};

std::vector<Pass> passes_of(const Product& product) {
  const int64_t values = product.compute == Compute::kBfloat16 ? 2 : 1;
  std::vector<Pass> passes;
  for (const Term& term : product.terms) {
    const int64_t size = even_size(term.k, kMostSteps * values, kLanes * values);
    for (int64_t k = 0; k < term.k; k += size) {
      const int64_t end = std::min(term.k, k + size);
      passes.push_back({&term, k, end, pieces(end - k, values)});
    }
  }
  if (passes.empty()) passes.push_back({nullptr, 0, 0, 0});
  return passes;
}

// The packed panels of one factor, kept until other lines or another pass are asked for.
class Panels {
 public:
  Panels(int64_t width, Scratch& scratch, void (*pack)(Compute, const PackPart&)) : width_(width), scratch_(scratch), pack_(pack) {}

  // Number of tasks until the lines [first, first + count) of a pass are packed; 0 when they already are.
  int64_t prepare(const Pass& pass, const Operand* operand, bool lines_are_rows, int64_t lines, int64_t first, int64_t count) {
    if (operand == nullptr || (operand == part_.operand && first == part_.first_line && pass.first_k == part_.first_k)) return 0;
    panels_ = pieces(count, width_);
    part_ = {operand, lines_are_rows, lines, first, pass.first_k, pass.end_k, 0, 0, nullptr, up(pass.steps * width_ + kLanes, kLanes)};
    part_.packed = scratch_.get<float>(panels_ * part_.panel_stride);
    return pieces(panels_, kPanelsAtOnce);
  }

  void run(Compute compute, int64_t task) const {
    PackPart part = part_;
    part.first_panel = task * kPanelsAtOnce;
    part.end_panel = std::min(panels_, part.first_panel + kPanelsAtOnce);
    pack_(compute, part);
  }

  // Panel that begins with line `line` of those prepared.
  const void* panel(int64_t line) const { return static_cast<const float*>(part_.packed) + line / width_ * part_.panel_stride; }
  int64_t stride() const { return part_.panel_stride; }

 private:
  int64_t width_;
  Scratch& scratch_;
  void (*pack_)(Compute, const PackPart&);
  PackPart part_ = {};
  int64_t panels_ = 0;
};

// Rows and columns of the result.
struct Area {
  int64_t row, rows, column, columns;
};

int64_t element_size(bool bfloat16) { return bfloat16 ? sizeof(Bfloat16) : sizeof(float); }

class Multiplication {
 public:
  Multiplication(const Product& product, Scratch& left, Scratch& right, Scratch& sums)
      : product_(product), kernels_(CODELLAMA_TABLE(gemm_kernels)), passes_(passes_of(product)), sums_(sums),
        left_(kernels_.tile_rows, left, kernels_.pack_left), right_(kLanes, right, kernels_.pack_right) {}

  void run() {
    const int64_t rows = even_size(product_.m, kMostLines, kernels_.tile_rows);
    const int64_t columns = even_size(product_.n, kMostLines, kernels_.tile_columns);
    for (int64_t column = 0; column < product_.n; column += columns) {
      for (int64_t row = 0; row < product_.m; row += rows) {
        const Area area = {row, std::min(rows, product_.m - row), column, std::min(columns, product_.n - column)};
        for (size_t pass = 0; pass < passes_.size(); ++pass) {
          pack(passes_[pass], area);
          multiply(pass, area);
        }
      }
    }
  }

 private:
  void pack(const Pass& pass, const Area& area) {
    const Operand* left = pass.term == nullptr ? nullptr : &pass.term->left;
    const Operand* right = pass.term == nullptr ? nullptr : &pass.term->right;
    const int64_t left_tasks = left_.prepare(pass, left, left != nullptr && !left->transposed, product_.m, area.row, area.rows);
    const int64_t columns = up(area.columns, kernels_.tile_columns);
    const int64_t right_tasks = right_.prepare(pass, right, right != nullptr && right->transposed, product_.n, area.column, columns);
    if (left_tasks + right_tasks == 0) return;
    for_tasks(left_tasks + right_tasks, [&](int64_t task) {
      task < left_tasks ? left_.run(product_.compute, task) : right_.run(product_.compute, task - left_tasks);
    });
  }

  void multiply(size_t pass, const Area& area) {
    int64_t rows = up(kBlockRows - kernels_.tile_rows + 1, kernels_.tile_rows);
    int64_t columns = up(kBlockColumns, kernels_.tile_columns);
    const int64_t wanted = kTasksPerWorker * thread_count();
    while (columns > kernels_.tile_columns && pieces(area.rows, rows) * pieces(area.columns, columns) < wanted) {
      columns = up(columns / 2, kernels_.tile_columns);
    }
    const int64_t across = pieces(area.columns, columns);
    MultiplyPart whole = {nullptr, nullptr, left_.stride(), right_.stride(), passes_[pass].steps, 0, 0, nullptr, 0, false, nullptr, 0, false};
    choose_memory(pass, area, &whole);
    for_tasks(pieces(area.rows, rows) * across, [&](int64_t task) {
      const int64_t row = task / across * rows;
      const int64_t column = task % across * columns;
      MultiplyPart part = whole;
      part.left = left_.panel(row);
      part.right = right_.panel(column);
      part.rows = std::min(rows, area.rows - row);
      part.columns = std::min(columns, area.columns - column);
      part.before = moved(part.before, part.before_bfloat16, row * part.before_stride + column);
      part.result = const_cast<void*>(moved(part.result, part.result_bfloat16, row * part.result_stride + column));
      kernels_.multiply(product_.compute, part);
    });
  }

  // Where an area's sums come from and go to: a bfloat16 result of several passes is summed in float32 elsewhere first.
  void choose_memory(size_t pass, const Area& area, MultiplyPart* part) {
    const bool is_first = pass == 0;
    const bool is_last = pass + 1 == passes_.size();
    const bool elsewhere = product_.bfloat16 && passes_.size() > 1;
    float* sums = elsewhere ? sums_.get<float>(area.rows * area.columns) : nullptr;
    const int64_t place = area.row * product_.stride + area.column;
    part->result = const_cast<void*>(moved(product_.result, product_.bfloat16, place));
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

  static const void* moved(const void* memory, bool bfloat16, int64_t elements) {
    return memory == nullptr ? nullptr : static_cast<const char*>(memory) + elements * element_size(bfloat16);
  }

  const Product& product_;
  const GemmKernels& kernels_;
  const std::vector<Pass> passes_;
  Scratch& sums_;
  Panels left_, right_;
};

}  // namespace

void gemm(const Product& product) {
  thread_local Scratch left, right, sums;
  if (product.m > 0 && product.n > 0) Multiplication(product, left, right, sums).run();
}

}  // namespace codellama
