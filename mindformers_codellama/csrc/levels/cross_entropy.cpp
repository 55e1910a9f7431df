#include "../cross_entropy.h"

#include "block_product.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

// Vecs whose exponentials are added in float32 before the sum goes on in float64.
constexpr int64_t kVecsPerSum = 32;
constexpr float kLog2OfE = 1.44269504f;

float largest_of(const float* x, int64_t size) {
  Vec top = broadcast(x[0]);
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) top = max(top, load(x + i));
  float result = largest(top);
  for (; i < size; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

// x[i] = e^(x[i] - top); their sum.
double exponentials(float* x, int64_t size, float top) {
  const Vec shift = broadcast(top), log2_of_e = broadcast(kLog2OfE);
  double result = 0.0;
  for (int64_t begin = 0; begin < size; begin += kVecsPerSum * kLanes) {
    const int64_t end = begin + kVecsPerSum * kLanes < size ? begin + kVecsPerSum * kLanes : size;
    Vec sums = zero();
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const Vec e = exp2_or_zero((load(x + i) - shift) * log2_of_e);
      store(x + i, e);
      sums = sums + e;
    }
    result += static_cast<double>(sum(sums));
    for (; i < end; ++i) {
      x[i] = std::exp(x[i] - top);
      result += static_cast<double>(x[i]);
    }
  }
  return result;
}

double token_loss(float* logits, int64_t size, int64_t label, float weight, bool gives_gradient) {
  const float top = largest_of(logits, size);
  const double chosen = static_cast<double>(logits[label]) - static_cast<double>(top);
  const double total = exponentials(logits, size, top);
  if (gives_gradient) {
    const float factor = static_cast<float>(static_cast<double>(weight) / total);
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) store(logits + i, load(logits + i) * broadcast(factor));
    for (; i < size; ++i) logits[i] *= factor;
    logits[label] -= weight;
  }
  return std::log(total) - chosen;
}

}  // namespace

extern const CrossEntropyKernels cross_entropy_kernels = {token_loss};

}  // namespace codellama::CODELLAMA_LEVEL
