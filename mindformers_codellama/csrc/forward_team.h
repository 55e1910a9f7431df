// How the phases of a pass are shared among threads.
#pragma once

#include "forward.h"
#include "gemm.h"

namespace codellama {

// From this many tokens on, products with float32 weights go through gemm(), which packs its factors first; that pays when many
// rows use them.
constexpr int64_t kGemmTokens = 32;

// How phases are run: by one worker of a parallel_for that spans the whole chunk, with barriers between the phases; or, because
// gemm() brings its own threads, each phase in a parallel_for of its own.
class Team {
 public:
  Team() = default;
  Team(int worker, int workers) : worker_(worker), workers_(workers), inside_(true) {}

  template <class Phase>
  void run(const Phase& phase) const {
    if (inside_) {
      phase(worker_, workers_);
    } else {
      parallel_for(phase);
    }
  }

  // Between a phase that writes and one in which other workers read it.
  void meet() const {
    if (inside_) wait_for_workers();
  }

  // y (+)= inputs times the matrix, transposed.
  void multiply(const Activations& inputs, const WeightMatrix& matrix, float* y, int64_t y_stride, bool add) const {
    if (inside_) {
      multiply_piece(inputs, matrix, y, y_stride, add, worker_, workers_);
      return;
    }
    Product product;
    product.m = inputs.rows;
    product.n = matrix.rows;
    product.terms.resize(1);
    Term& term = product.terms[0];
    term.left.data = inputs.x;
    term.left.stride = inputs.x_stride;
    term.right.data = matrix.values;
    term.right.stride = matrix.columns;
    term.right.transposed = true;
    term.k = matrix.columns;
    product.result = y;
    product.stride = y_stride;
    product.accumulate = add;
    gemm(product);
  }

  bool is_inside() const { return inside_; }

 private:
  int worker_ = 0, workers_ = 1;
  bool inside_ = false;
};

// Runs work(team) with the kind of team that suits products of `rows` rows.
template <class Work>
void with_team(const LlamaModel& model, int64_t rows, const Work& work) {
  if (model.form == Form::kFloat32 && rows >= kGemmTokens) {
    work(Team());
  } else {
    parallel_for([&](int worker, int workers) { work(Team(worker, workers)); });
  }
}

}  // namespace codellama
