// Training work that goes once over memory: the gate of the feed-forward, the residual stream, AdamW.
#pragma once

#include <cstdint>

#include "level.h"

namespace codellama {

// Scalars of one AdamW update, see train/optimizer.py: with g = gradient * factor,
//   m = beta1 m + rest1 g;  v = beta2 v + rest2 g g;  p -= rate (m / (sqrt(v) + eps) + decay p)
struct AdamRates {
  float rate = 0.0f, eps = 0.0f, decay = 0.0f, beta1 = 0.0f, rest1 = 0.0f, beta2 = 0.0f, rest2 = 0.0f, factor = 0.0f;
};

// Arrays of `count` elements, float32 or (bfloat16 true) bfloat16 as said; in this thread.
struct ElementwiseKernels {
  // y = silu(a) * b, all of one type.
  void (*gate)(const void* a, const void* b, void* y, bool bfloat16, int64_t count);
  // da = dy b silu'(a), db = dy silu(a), all of one type.
  void (*gate_grad)(const void* a, const void* b, const void* dy, void* da, void* db, bool bfloat16, int64_t count);
  // y = x + branch, x and y float32.
  void (*residual_add)(const float* x, const void* branch, float* y, bool bfloat16, int64_t count);
  void (*to_bfloat16)(const float* x, uint16_t* y, int64_t count);
  // x *= factor
  void (*scale)(void* x, float factor, bool bfloat16, int64_t count);
  // Sum of squares, in float64; its order of additions depends on `count` alone.
  double (*sum_of_squares)(const float* x, int64_t count);
  void (*adam)(float* parameter, float* m, float* v, const float* gradient, const AdamRates& rates, int64_t count);
};

CODELLAMA_DECLARE(ElementwiseKernels, elementwise_kernels)

// Of the level in use.
inline const ElementwiseKernels& elementwise() { return CODELLAMA_TABLE(elementwise_kernels); }

}  // namespace codellama
