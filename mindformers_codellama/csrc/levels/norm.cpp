#include "../norm.h"

#include "../simd.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

// 1 / sqrt(mean of squares + eps) of one row.
float inverse_root(const float* x, int64_t width, float eps) {
  Vec squares = zero();
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec v = load(x + i);
    squares = fma(v, v, squares);
  }
  const Vec rest = load_first(x + i, static_cast<int>(width - i));
  squares = fma(rest, rest, squares);
  return 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + eps);
}

void rms_norm(const float* x, const float* weight, float* y, int64_t rows, int64_t width, float eps) {
  for (int64_t row = 0; row < rows; ++row, x += width, y += width) {
    const Vec scale = broadcast(inverse_root(x, width, eps));
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(y + i, load(x + i) * scale * load(weight + i));
    const int rest = static_cast<int>(width - i);
    store_first(y + i, load_first(x + i, rest) * scale * load_first(weight + i, rest), rest);
  }
}

}  // namespace

extern const NormKernels norm_kernels = {rms_norm};

}  // namespace codellama::CODELLAMA_LEVEL
