// Entry points of linear layers: y = x W^T and its two gradients; leading dims of x are rows.
#include "gemm.h"
#include "op.h"

namespace codellama {
namespace {

bool is_bfloat16(const Arguments& in, int index) {
  in.require(in.is(index, "float32") || in.is(index, "bfloat16"),
             "tensor " + std::to_string(index) + " must be float32 or bfloat16");
  return in.is(index, "bfloat16");
}

// Tensor `index`, all dims but the last taken as rows.
Operand operand_of(const Arguments& in, int index, bool transposed) {
  in.require(in.dims(index) >= 1, "tensor " + std::to_string(index) + " must have a dim");
  Operand operand;
  operand.data = in.raw(index);
  operand.stride = in.last(index);
  operand.bfloat16 = is_bfloat16(in, index);
  operand.transposed = transposed;
  return operand;
}

void expect_matrix(const Arguments& in, int index, int64_t rows, int64_t columns) {
  in.require(in.rows(index) == rows && in.last(index) == columns,
             "tensor " + std::to_string(index) + " must have " + std::to_string(rows) + " rows of " + std::to_string(columns) +
                 ", has " + std::to_string(in.rows(index)) + " of " + std::to_string(in.last(index)));
}

// result = left * right; tensors by their index, and whether they are transposed in memory.
struct Factors {
  int left, right, result;
  bool left_transposed, right_transposed;
};

void multiply(const Arguments& in, Compute compute, const Factors& factors) {
  Term term;
  term.left = operand_of(in, factors.left, factors.left_transposed);
  term.right = operand_of(in, factors.right, factors.right_transposed);
  Product product;
  product.m = factors.left_transposed ? in.last(factors.left) : in.rows(factors.left);
  product.n = factors.right_transposed ? in.rows(factors.right) : in.last(factors.right);
  term.k = factors.left_transposed ? in.rows(factors.left) : in.last(factors.left);
  const int64_t right_k = factors.right_transposed ? in.last(factors.right) : in.rows(factors.right);
  in.require(term.k == right_k, "tensors " + std::to_string(factors.left) + " and " + std::to_string(factors.right) +
                                    " do not match: " + std::to_string(term.k) + " and " + std::to_string(right_k));
  expect_matrix(in, factors.result, product.m, product.n);
  product.terms = {term};
  product.compute = compute;
  product.result = in.raw(factors.result);
  product.stride = product.n;
  product.bfloat16 = is_bfloat16(in, factors.result);
  gemm(product);
}

// x [..., I], weight [O, I] -> y [..., O]
void linear(const Arguments& in, Compute compute) {
  in.expect_count(3);
  multiply(in, compute, {0, 1, 2, false, true});
}

// dy [..., O], weight [O, I], x [..., I] (not read: the result has its type and shape) -> dx [..., I]
void linear_input_grad(const Arguments& in, Compute compute) {
  in.expect_count(4);
  multiply(in, compute, {0, 1, 3, false, false});
}

// dy [..., O], x [..., I] -> dweight [O, I]
void linear_weight_grad(const Arguments& in, Compute compute) {
  in.expect_count(3);
  multiply(in, compute, {0, 1, 2, true, false});
}

}  // namespace
}  // namespace codellama

CODELLAMA_OP(LinearFloat32) { codellama::linear(in, codellama::Compute::kFloat32); }
CODELLAMA_OP(LinearBfloat16) { codellama::linear(in, codellama::Compute::kBfloat16); }
CODELLAMA_OP(LinearInputGradFloat32) { codellama::linear_input_grad(in, codellama::Compute::kFloat32); }
CODELLAMA_OP(LinearInputGradBfloat16) { codellama::linear_input_grad(in, codellama::Compute::kBfloat16); }
CODELLAMA_OP(LinearWeightGradFloat32) { codellama::linear_weight_grad(in, codellama::Compute::kFloat32); }
CODELLAMA_OP(LinearWeightGradBfloat16) { codellama::linear_weight_grad(in, codellama::Compute::kBfloat16); }
