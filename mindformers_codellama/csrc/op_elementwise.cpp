// Entry points of elementwise.h.
#include <algorithm>
#include <cmath>
#include <vector>

#include "elementwise.h"
#include "op.h"
#include "parallel.h"

namespace codellama {
namespace {

// Elements a worker takes at least, and whose squares are summed together.
constexpr int64_t kShare = 1 << 14;

// Calls function(begin, end) for the pieces of `count` elements, on all workers.
template <class Function>
void over(int64_t count, Function function) {
  if (count <= kShare) {
    function(int64_t{0}, count);
    return;
  }
  parallel_for([&](int worker, int workers) {
    const Piece piece = piece_of(count, worker, workers, 64);
    if (piece.begin < piece.end) function(piece.begin, piece.end);
  });
}

// Address of element `at`.
void* shifted(void* p, int64_t at, bool bfloat16) { return static_cast<char*>(p) + at * (bfloat16 ? 2 : 4); }

// Memory of tensor `index`, float32 or bfloat16 as said, as large as tensor `like`.
void* same_size(const Arguments& in, int index, int like, bool bfloat16) {
  in.require(in.elements(index) == in.elements(like), "tensor " + std::to_string(index) + " has another size than it must have");
  return in.typed(index, bfloat16 ? "bfloat16" : "float32");
}

float number(const Arguments& in, int index) {
  in.require(in.elements(index) == 1, "tensor " + std::to_string(index) + " must be one number");
  return in.floats(index)[0];
}

void gate_op(const Arguments& in) {
  in.expect_count(3);
  const bool b16 = in.is(0, "bfloat16");
  void* t[3];
  for (int i = 0; i < 3; ++i) t[i] = same_size(in, i, 0, b16);
  over(in.elements(0), [&](int64_t begin, int64_t end) {
    elementwise().gate(shifted(t[0], begin, b16), shifted(t[1], begin, b16), shifted(t[2], begin, b16), b16, end - begin);
  });
}

void gate_grad_op(const Arguments& in) {
  in.expect_count(5);
  const bool b16 = in.is(0, "bfloat16");
  void* t[5];
  for (int i = 0; i < 5; ++i) t[i] = same_size(in, i, 0, b16);
  over(in.elements(0), [&](int64_t begin, int64_t end) {
    elementwise().gate_grad(shifted(t[0], begin, b16), shifted(t[1], begin, b16), shifted(t[2], begin, b16), shifted(t[3], begin, b16),
                            shifted(t[4], begin, b16), b16, end - begin);
  });
}

// a and b become their gradients: every element is read before it is written.
void gate_grad_in_place_op(const Arguments& in) {
  in.expect_count(4);
  const bool b16 = in.is(0, "bfloat16");
  void* t[3];
  for (int i = 0; i < 3; ++i) t[i] = same_size(in, i, 0, b16);
  in.float_output(3)[0] = 0.0f;
  over(in.elements(0), [&](int64_t begin, int64_t end) {
    void *a = shifted(t[0], begin, b16), *b = shifted(t[1], begin, b16);
    elementwise().gate_grad(a, b, shifted(t[2], begin, b16), a, b, b16, end - begin);
  });
}

void residual_add_op(const Arguments& in) {
  in.expect_count(3);
  const bool b16 = in.is(1, "bfloat16");
  const float* x = in.floats(0);
  void* branch = same_size(in, 1, 0, b16);
  float* y = static_cast<float*>(same_size(in, 2, 0, false));
  over(in.elements(0), [&](int64_t begin, int64_t end) {
    elementwise().residual_add(x + begin, shifted(branch, begin, b16), y + begin, b16, end - begin);
  });
}

void add_in_place_op(const Arguments& in) {
  in.expect_count(3);
  float* x = static_cast<float*>(same_size(in, 0, 0, false));
  const float* y = static_cast<const float*>(same_size(in, 1, 0, false));
  in.float_output(2)[0] = 0.0f;
  over(in.elements(0), [&](int64_t begin, int64_t end) { elementwise().residual_add(x + begin, y + begin, x + begin, false, end - begin); });
}

void to_bfloat16_op(const Arguments& in) {
  in.expect_count(2);
  const float* x = in.floats(0);
  uint16_t* y = static_cast<uint16_t*>(same_size(in, 1, 0, true));
  over(in.elements(0), [&](int64_t begin, int64_t end) { elementwise().to_bfloat16(x + begin, y + begin, end - begin); });
}

void scale_op(const Arguments& in) {
  in.expect_count(3);
  const bool b16 = in.is(0, "bfloat16");
  void* x = same_size(in, 0, 0, b16);
  const float factor = number(in, 1);
  in.float_output(2)[0] = factor;
  over(in.elements(0), [&](int64_t begin, int64_t end) { elementwise().scale(shifted(x, begin, b16), factor, b16, end - begin); });
}

void gradient_norm_op(const Arguments& in) {
  in.require(in.count() >= 2, "takes the unscaling factor and gradients");
  const float unscale = number(in, 0);
  struct Share {
    const float* x;
    int64_t count;
  };
  std::vector<Share> shares;
  for (int index = 1; index + 1 < in.count(); ++index) {
    const float* x = in.floats(index);
    const int64_t count = in.elements(index);
    for (int64_t begin = 0; begin < count; begin += kShare) shares.push_back({x + begin, std::min(kShare, count - begin)});
  }
  std::vector<double> sums(shares.size());
  parallel_for([&](int worker, int workers) {
    const Piece own = piece_of(static_cast<int64_t>(shares.size()), worker, workers);
    for (int64_t i = own.begin; i < own.end; ++i) sums[i] = elementwise().sum_of_squares(shares[i].x, shares[i].count);
  });
  double total = 0.0;
  for (double part : sums) total += part;
  in.float_output(in.count() - 1)[0] = static_cast<float>(std::sqrt(total) * static_cast<double>(unscale));
}

void adam_op(const Arguments& in) {
  in.expect_count(8);
  float* t[4];
  for (int i = 0; i < 4; ++i) t[i] = static_cast<float*>(same_size(in, i, 0, false));
  in.require(in.elements(4) == 5, "the rates must be rate, eps, decay, beta1 and beta2");
  const float* given = in.floats(4);
  const float norm = number(in, 6);
  AdamRates rates;
  rates.rate = given[0], rates.eps = given[1], rates.decay = given[2], rates.beta1 = given[3], rates.beta2 = given[4];
  rates.rest1 = 1.0f - rates.beta1, rates.rest2 = 1.0f - rates.beta2, rates.factor = number(in, 5);
  in.float_output(7)[0] = norm;
  if (!std::isfinite(norm)) return;
  over(in.elements(0), [&](int64_t begin, int64_t end) {
    elementwise().adam(t[0] + begin, t[1] + begin, t[2] + begin, t[3] + begin, rates, end - begin);
  });
}

}  // namespace
}  // namespace codellama

// Gate(a, b) -> silu(a) * b; float32 or bfloat16, all of one type and size
CODELLAMA_OP(Gate) { codellama::gate_op(in); }

// GateGrad(a, b, gradient of the gate) -> da, db
CODELLAMA_OP(GateGrad) { codellama::gate_grad_op(in); }

// GateGradInPlace(a, b, gradient of the gate) -> float32 [1] without meaning; a and b become da and db
CODELLAMA_OP(GateGradInPlace) { codellama::gate_grad_in_place_op(in); }

// ResidualAdd(x float32, branch float32 or bfloat16) -> x + branch, float32
CODELLAMA_OP(ResidualAdd) { codellama::residual_add_op(in); }

// AddInPlace(x, y, both float32) -> float32 [1] without meaning; x becomes x + y
CODELLAMA_OP(AddInPlace) { codellama::add_in_place_op(in); }

// ToBfloat16(x float32) -> bfloat16, to nearest, ties to even
CODELLAMA_OP(ToBfloat16) { codellama::to_bfloat16_op(in); }

// ScaleInPlace(x float32 or bfloat16, factor float32 [1]) -> float32 [1] without meaning; x is changed
CODELLAMA_OP(ScaleInPlace) { codellama::scale_op(in); }

// GradientNorm(unscale float32 [1], gradients float32...) -> float32 [1]
CODELLAMA_OP(GradientNorm) { codellama::gradient_norm_op(in); }

// AdamStep(parameter, m, v, gradient, all float32 of one size, rates float32 [5], factor float32 [1], norm float32 [1]) -> float32 [1]
// without meaning; parameter, m and v are changed unless norm is not finite
CODELLAMA_OP(AdamStep) { codellama::adam_op(in); }
