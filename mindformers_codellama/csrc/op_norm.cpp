// Entry points of the norm.
#include "norm.h"

#include <algorithm>
#include <vector>

#include "op.h"
#include "parallel.h"

namespace codellama {
namespace {

// The weight's gradient is added up in this many shares of rows at most, whatever the number of threads.
constexpr int64_t kMostShares = 64;
constexpr int64_t kRowsPerShare = 32;

// x float32 [..., D], weight float32 [D], eps float32 [1] at 0 to 2, and y float32 or bfloat16 like x at 3.
void norm_op(const Arguments& in) {
  in.expect_count(4);
  const float* x = in.floats(0);
  const float* weight = in.floats(1);
  const int64_t width = in.last(0);
  in.require(in.elements(1) == width, "the weight has another width than x");
  in.require(in.elements(2) == 1, "eps must be one number");
  in.require(in.elements(3) == in.elements(0), "the output has another size than x");
  const float eps = in.floats(2)[0];
  const bool bfloat16 = in.is(3, "bfloat16");
  void* y = in.typed(3, bfloat16 ? "bfloat16" : "float32");
  parallel_for([&](int worker, int workers) {
    const Piece rows = piece_of(in.rows(0), worker, workers);
    const int64_t begin = rows.begin * width, count = rows.end - rows.begin;
    if (bfloat16) {
      norm().rms_norm_bfloat16(x + begin, weight, static_cast<uint16_t*>(y) + begin, count, width, eps);
    } else {
      norm().rms_norm(x + begin, weight, static_cast<float*>(y) + begin, count, width, eps);
    }
  });
}

void norm_grad_op(const Arguments& in) {
  NormGradCall call;
  call.readers = in.count() - 5;
  in.require(call.readers >= 1 && call.readers <= kMostNormReaders, "takes x, weight, eps and 1 to 8 gradients");
  call.x = in.floats(0), call.weight = in.floats(1);
  call.width = in.last(0);
  in.require(in.elements(1) == call.width, "the weight has another width than x");
  in.require(in.elements(2) == 1, "eps must be one number");
  call.eps = in.floats(2)[0];
  call.bfloat16 = in.is(3, "bfloat16");
  for (int reader = 0; reader < call.readers; ++reader) {
    in.require(in.elements(3 + reader) == in.elements(0), "a gradient has another size than x");
    call.dy[reader] = in.typed(3 + reader, call.bfloat16 ? "bfloat16" : "float32");
  }
  call.dx = in.float_output(in.count() - 2);
  float* dweight = in.float_output(in.count() - 1);
  in.require(in.elements(in.count() - 2) == in.elements(0) && in.elements(in.count() - 1) == call.width, "outputs of another size");
  const int64_t rows = in.rows(0), width = call.width;
  const int64_t shares = std::max<int64_t>(1, std::min(kMostShares, rows / kRowsPerShare));
  std::vector<float> sums(shares * width);
  parallel_for([&](int worker, int workers) {
    const Piece own = piece_of(shares, worker, workers);
    for (int64_t share = own.begin; share < own.end; ++share) {
      norm().rms_norm_grad(call, rows * share / shares, rows * (share + 1) / shares, sums.data() + share * width);
    }
  });
  for (int64_t i = 0; i < width; ++i) {
    dweight[i] = 0.0f;
    for (int64_t share = 0; share < shares; ++share) dweight[i] += sums[share * width + i];
  }
}

}  // namespace
}  // namespace codellama

// RmsNorm(x float32 [..., D], weight float32 [D], eps float32 [1]) -> y float32 or bfloat16 [..., D]
CODELLAMA_OP(RmsNorm) { codellama::norm_op(in); }

// RmsNormGrad(x, weight, eps, 1 to 8 gradients of y, all float32 or all bfloat16) -> dx float32 like x, dweight float32 [D]
CODELLAMA_OP(RmsNormGrad) { codellama::norm_grad_op(in); }
