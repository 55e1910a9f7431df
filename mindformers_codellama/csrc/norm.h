// Root-mean-square norm (arXiv 1910.07467), forward and backward.
#pragma once

#include <cstdint>

#include "level.h"

namespace codellama {

// Gradients a norm's output may have at once, one per reader of it.
constexpr int kMostNormReaders = 8;

// Rows of a residual stream and what comes back from the readers of its norm.
struct NormGradCall {
  const float* x = nullptr;
  const float* weight = nullptr;
  const void* dy[kMostNormReaders] = {};  // [rows][width] each; their sum is the gradient
  int readers = 0;
  bool bfloat16 = false;  // type of all dy
  float* dx = nullptr;
  int64_t width = 0;
  float eps = 0.0f;
};

struct NormKernels {
  // y[r][i] = x[r][i] * weight[i] / sqrt(mean of x[r]^2 + eps) for `rows` rows of `width`, in this thread.
  void (*rms_norm)(const float* x, const float* weight, float* y, int64_t rows, int64_t width, float eps);
  // The same, rounded to bfloat16.
  void (*rms_norm_bfloat16)(const float* x, const float* weight, uint16_t* y, int64_t rows, int64_t width, float eps);
  // dx of rows [begin, end), and their share of the weight's gradient, [width].
  void (*rms_norm_grad)(const NormGradCall& call, int64_t begin, int64_t end, float* dweight);
};

CODELLAMA_DECLARE(NormKernels, norm_kernels)

// Of the level in use.
inline const NormKernels& norm() { return CODELLAMA_TABLE(norm_kernels); }

}  // namespace codellama
