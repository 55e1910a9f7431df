#include "../norm.h"

#include "../simd.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

// Lanes of a Vec that begins at i and are inside a row.
int lanes_at(int64_t i, int64_t width) { return static_cast<int>(width - i < kLanes ? width - i : kLanes); }

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

template <class T>
void norm_rows(const float* x, const float* weight, T* y, int64_t rows, int64_t width, float eps) {
  for (int64_t row = 0; row < rows; ++row, x += width, y += width) {
    const Vec scale = broadcast(inverse_root(x, width, eps));
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(y + i, load(x + i) * scale * load(weight + i));
    const int rest = static_cast<int>(width - i);
    store_first(y + i, load_first(x + i, rest) * scale * load_first(weight + i, rest), rest);
  }
}

// Sum of what all readers send back, at row-major offset `at`.
template <class T>
Vec gradient_at(const NormGradCall& call, int64_t at, int count) {
  Vec result = zero();
  for (int reader = 0; reader < call.readers; ++reader) {
    const T* dy = static_cast<const T*>(call.dy[reader]) + at;
    result = result + (count == kLanes ? load(dy) : load_first(dy, count));
  }
  return result;
}

// With r = 1 / root: y = x r w, so dw = sum of dy x r over rows, and dx = r (w dy - x r^2 mean(w dy x)).
template <class T>
void norm_grad(const NormGradCall& call, int64_t begin, int64_t end, float* dweight) {
  const int64_t width = call.width;
  for (int64_t i = 0; i < width; ++i) dweight[i] = 0.0f;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = call.x + row * width;
    float* dx = call.dx + row * width;
    const float root = inverse_root(x, width, call.eps);
    const Vec scale = broadcast(root);
    Vec products = zero();
    for (int64_t i = 0; i < width; i += kLanes) {
      const int count = lanes_at(i, width);
      const Vec dy = gradient_at<T>(call, row * width + i, count), value = load_first(x + i, count);
      const Vec weighted = dy * load_first(call.weight + i, count);
      products = fma(weighted, value, products);
      store_first(dweight + i, fma(dy, value * scale, load_first(dweight + i, count)), count);
      store_first(dx + i, weighted, count);
    }
    const Vec pull = broadcast(sum(products) / static_cast<float>(width) * root * root);
    for (int64_t i = 0; i < width; i += kLanes) {
      const int count = lanes_at(i, width);
      store_first(dx + i, scale * (load_first(dx + i, count) - load_first(x + i, count) * pull), count);
    }
  }
}

void rms_norm(const float* x, const float* weight, float* y, int64_t rows, int64_t width, float eps) {
  norm_rows(x, weight, y, rows, width, eps);
}

void rms_norm_bfloat16(const float* x, const float* weight, uint16_t* y, int64_t rows, int64_t width, float eps) {
  norm_rows(x, weight, y, rows, width, eps);
}

void rms_norm_grad(const NormGradCall& call, int64_t begin, int64_t end, float* dweight) {
  if (call.bfloat16) {
    norm_grad<Bfloat16>(call, begin, end, dweight);
  } else {
    norm_grad<float>(call, begin, end, dweight);
  }
}

}  // namespace

extern const NormKernels norm_kernels = {rms_norm, rms_norm_bfloat16, rms_norm_grad};

}  // namespace codellama::CODELLAMA_LEVEL
