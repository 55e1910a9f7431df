// Entry points of linear layers: y = x W^T and its two gradients. Leading dims are rows; every tensor is float32 or bfloat16.
// Each is there for products of float32 and of bfloat16, sums being float32 in both.
#include "gemm.h"
#include "op.h"

namespace codellama {
namespace {

// Whether tensor `index` is bfloat16; refuses all but float32 besides.
bool is_bfloat16(const Arguments& in, int index) {
  in.require(in.is(index, "float32") || in.is(index, "bfloat16"),
             "tensor " + std::to_string(index) + " must be float32 or bfloat16");
  return in.is(index, "bfloat16");
}

// Tensor `index`, all dims but the last taken as rows.
Operand matrix(const Arguments& in, int index, bool transposed) {
  in.require(in.dims(index) >= 1, "tensor " + std::to_string(index) + " must have a dim");
  Operand operand;
  operand.data = in.raw(index);
  operand.stride = in.last(index);
  operand.bfloat16 = is_bfloat16(in, index);
  operand.transposed = transposed;
  return operand;
}

// silu(tensor a) * tensor b
Operand gated(const Arguments& in, int a, int b, bool transposed) {
  Operand operand = matrix(in, a, transposed);
  in.require(is_bfloat16(in, b) == operand.bfloat16 && in.rows(a) == in.rows(b) && in.last(a) == in.last(b),
             "tensors " + std::to_string(a) + " and " + std::to_string(b) + " must be alike");
  operand.other = in.raw(b);
  return operand;
}

void require_equal(const Arguments& in, int64_t a, int64_t b, const char* what) {
  in.require(a == b, std::string(what) + ": " + std::to_string(a) + " and " + std::to_string(b));
}

// Runs the terms into tensor `result`, [..., n] with m rows.
void multiply(const Arguments& in, Compute compute, std::vector<Term> terms, int result, int64_t m, int64_t n) {
  require_equal(in, in.rows(result), m, "rows of the output and of the inputs");
  require_equal(in, in.last(result), n, "last dims of the output and of the inputs");
  Product product;
  product.m = m;
  product.n = n;
  product.terms = std::move(terms);
  product.compute = compute;
  product.result = in.raw(result);
  product.stride = n;
  product.bfloat16 = is_bfloat16(in, result);
  gemm(product);
}

// x, which is `inputs` tensors, weight [O, I] and y [..., O].
void linear(const Arguments& in, Compute compute, const Operand& x, int inputs) {
  in.expect_count(inputs + 2);
  require_equal(in, in.last(0), in.last(inputs), "last dims of x and the weight");
  multiply(in, compute, {{x, matrix(in, inputs, true), in.last(0)}}, inputs + 1, in.rows(0), in.rows(inputs));
}

// dy [..., O], x [..., I], which make `inputs` tensors, and dweight [O, I].
void weight_grad(const Arguments& in, Compute compute, const Operand& x, int inputs) {
  in.expect_count(inputs + 1);
  require_equal(in, in.rows(0), in.rows(1), "rows of dy and x");
  multiply(in, compute, {{matrix(in, 0, true), x, in.rows(0)}}, inputs, in.last(0), in.last(1));
}

void input_grad(const Arguments& in, Compute compute) {
  in.require(in.count() >= 4 && in.count() % 2 == 0, "takes pairs of dy and weight, x and the output");
  const int result = in.count() - 1;
  std::vector<Term> terms;
  for (int dy = 0; dy < result - 1; dy += 2) {
    require_equal(in, in.rows(dy), in.rows(0), "rows of two dy");
    require_equal(in, in.last(dy), in.rows(dy + 1), "last dim of dy and rows of its weight");
    require_equal(in, in.last(dy + 1), in.last(1), "last dims of two weights");
    terms.push_back({matrix(in, dy, false), matrix(in, dy + 1, false), in.last(dy)});
  }
  multiply(in, compute, std::move(terms), result, in.rows(0), in.last(1));
}

}  // namespace

// x [..., I], weight [O, I] -> y [..., O]
CODELLAMA_OP(LinearFloat32) { linear(in, Compute::kFloat32, matrix(in, 0, false), 1); }
CODELLAMA_OP(LinearBfloat16) { linear(in, Compute::kBfloat16, matrix(in, 0, false), 1); }

// a [..., I], b [..., I], weight [O, I] -> y [..., O], x = silu(a) * b being made on the way
CODELLAMA_OP(GatedLinearFloat32) { linear(in, Compute::kFloat32, gated(in, 0, 1, false), 2); }
CODELLAMA_OP(GatedLinearBfloat16) { linear(in, Compute::kBfloat16, gated(in, 0, 1, false), 2); }

// dy [..., O], weight [O, I], ... (further pairs), x [..., I] (not read: the output is like it) -> dx [..., I], the sum of dy W
CODELLAMA_OP(LinearInputGradFloat32) { input_grad(in, Compute::kFloat32); }
CODELLAMA_OP(LinearInputGradBfloat16) { input_grad(in, Compute::kBfloat16); }

// dy [..., O], x [..., I] -> dweight [O, I]
CODELLAMA_OP(LinearWeightGradFloat32) { weight_grad(in, Compute::kFloat32, matrix(in, 1, false), 2); }
CODELLAMA_OP(LinearWeightGradBfloat16) { weight_grad(in, Compute::kBfloat16, matrix(in, 1, false), 2); }

// dy [..., O], a [..., I], b [..., I] -> dweight [O, I], x = silu(a) * b being made on the way
CODELLAMA_OP(GatedLinearWeightGradFloat32) { weight_grad(in, Compute::kFloat32, gated(in, 1, 2, false), 3); }
CODELLAMA_OP(GatedLinearWeightGradBfloat16) { weight_grad(in, Compute::kBfloat16, gated(in, 1, 2, false), 3); }

}  // namespace codellama
