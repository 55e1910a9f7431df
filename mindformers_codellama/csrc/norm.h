// Root-mean-square norm (arXiv 1910.07467).
#pragma once

#include <cstdint>

#include "level.h"

namespace codellama {

struct NormKernels {
  // y[r][i] = x[r][i] * weight[i] / sqrt(mean of x[r]^2 + eps) for `rows` rows of `width`, in this thread.
  void (*rms_norm)(const float* x, const float* weight, float* y, int64_t rows, int64_t width, float eps);
};

CODELLAMA_DECLARE(NormKernels, norm_kernels)

// Of the level in use.
inline const NormKernels& norm() { return CODELLAMA_TABLE(norm_kernels); }

}  // namespace codellama
