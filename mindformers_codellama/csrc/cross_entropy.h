// Cross entropy of the output head, in chunks of tokens.
#pragma once

#include <cstdint>

#include "level.h"

namespace codellama {

struct CrossEntropyKernels {
  // log sum exp(logits) - logits[label] of one token, in this thread; V = `size`. When `gives_gradient`, the logits become
  // weight * (softmax - 1 at label).
  double (*token_loss)(float* logits, int64_t size, int64_t label, float weight, bool gives_gradient);
};

CODELLAMA_DECLARE(CrossEntropyKernels, cross_entropy_kernels)

// Of the level in use.
inline const CrossEntropyKernels& cross_entropy() { return CODELLAMA_TABLE(cross_entropy_kernels); }

}  // namespace codellama
