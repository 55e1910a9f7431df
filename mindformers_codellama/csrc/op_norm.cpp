// Entry points of the norm.
#include "norm.h"
#include "op.h"
#include "parallel.h"

// RmsNorm(x float32 [..., D], weight float32 [D], eps float32 [1]) -> y float32 [..., D]
CODELLAMA_OP(RmsNorm) {
  in.expect_count(4);
  const float* x = in.floats(0);
  const float* weight = in.floats(1);
  const float eps = in.floats(2)[0];
  float* y = in.float_output(3);
  const int64_t width = in.last(0);
  in.require(in.elements(1) == width, "the weight has another width than x");
  in.require(in.elements(3) == in.elements(0), "the output has another size than x");
  codellama::parallel_for([&](int worker, int workers) {
    const auto rows = codellama::piece_of(in.rows(0), worker, workers);
    codellama::norm().rms_norm(x + rows.begin * width, weight, y + rows.begin * width, rows.end - rows.begin, width, eps);
  });
}
