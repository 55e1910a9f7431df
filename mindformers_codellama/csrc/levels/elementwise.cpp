#include "../elementwise.h"

#include <type_traits>

#include "../simd.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

// Calls step(i, lanes) for whole Vecs and then once for the rest; `lanes` is a constant in the first case.
template <class Step>
inline void each_vec(int64_t count, Step step) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) step(i, std::integral_constant<int, kLanes>());
  if (i < count) step(i, static_cast<int>(count - i));
}

template <class T>
inline Vec take(const T* p, std::integral_constant<int, kLanes>) {
  return load(p);
}
template <class T>
inline Vec take(const T* p, int lanes) {
  return load_first(p, lanes);
}
template <class T>
inline void put(T* p, Vec a, std::integral_constant<int, kLanes>) {
  store(p, a);
}
template <class T>
inline void put(T* p, Vec a, int lanes) {
  store_first(p, a, lanes);
}

template <class T>
void gate_of(const T* a, const T* b, T* y, int64_t count) {
  each_vec(count, [=](int64_t i, auto lanes) { put(y + i, silu(take(a + i, lanes)) * take(b + i, lanes), lanes); });
}

// silu(a) = a s with s = 1 / (1 + e^-a); silu'(a) = s (1 + a (1 - s))
template <class T>
void gate_grad_of(const T* a, const T* b, const T* dy, T* da, T* db, int64_t count) {
  const Vec one = broadcast(1.0f);
  each_vec(count, [=](int64_t i, auto lanes) {
    const Vec x = take(a + i, lanes), grad = take(dy + i, lanes);
    const Vec s = one / (one + exp(zero() - x));
    put(da + i, grad * take(b + i, lanes) * s * fma(x, one - s, one), lanes);
    put(db + i, grad * (x * s), lanes);
  });
}

template <class T>
void residual_add_of(const float* x, const T* branch, float* y, int64_t count) {
  each_vec(count, [=](int64_t i, auto lanes) { put(y + i, take(x + i, lanes) + take(branch + i, lanes), lanes); });
}

template <class T>
void scale_of(T* x, float factor, int64_t count) {
  const Vec by = broadcast(factor);
  each_vec(count, [=](int64_t i, auto lanes) { put(x + i, take(x + i, lanes) * by, lanes); });
}

void gate(const void* a, const void* b, void* y, bool bfloat16, int64_t count) {
  if (bfloat16) {
    gate_of(static_cast<const Bfloat16*>(a), static_cast<const Bfloat16*>(b), static_cast<Bfloat16*>(y), count);
  } else {
    gate_of(static_cast<const float*>(a), static_cast<const float*>(b), static_cast<float*>(y), count);
  }
}

template <class T>
void gate_grad_typed(const void* a, const void* b, const void* dy, void* da, void* db, int64_t count) {
  gate_grad_of(static_cast<const T*>(a), static_cast<const T*>(b), static_cast<const T*>(dy), static_cast<T*>(da), static_cast<T*>(db),
               count);
}

void gate_grad(const void* a, const void* b, const void* dy, void* da, void* db, bool bfloat16, int64_t count) {
  if (bfloat16) {
    gate_grad_typed<Bfloat16>(a, b, dy, da, db, count);
  } else {
    gate_grad_typed<float>(a, b, dy, da, db, count);
  }
}

void residual_add(const float* x, const void* branch, float* y, bool bfloat16, int64_t count) {
  if (bfloat16) {
    residual_add_of(x, static_cast<const Bfloat16*>(branch), y, count);
  } else {
    residual_add_of(x, static_cast<const float*>(branch), y, count);
  }
}

void narrow_all(const float* x, uint16_t* y, int64_t count) {
  each_vec(count, [=](int64_t i, auto lanes) { put(y + i, take(x + i, lanes), lanes); });
}

void scale(void* x, float factor, bool bfloat16, int64_t count) {
  if (bfloat16) {
    scale_of(static_cast<Bfloat16*>(x), factor, count);
  } else {
    scale_of(static_cast<float*>(x), factor, count);
  }
}

double sum_of_squares(const float* x, int64_t count) {
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += static_cast<double>(x[i + lane]) * static_cast<double>(x[i + lane]);
  }
  double result = 0.0;
  for (double part : sums) result += part;
  for (; i < count; ++i) result += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return result;
}

void adam(float* parameter, float* m, float* v, const float* gradient, const AdamRates& rates, int64_t count) {
  const Vec beta1 = broadcast(rates.beta1), rest1 = broadcast(rates.rest1), beta2 = broadcast(rates.beta2), rest2 = broadcast(rates.rest2);
  const Vec rate = broadcast(rates.rate), eps = broadcast(rates.eps), decay = broadcast(rates.decay), factor = broadcast(rates.factor);
  each_vec(count, [=](int64_t i, auto lanes) {
    const Vec g = take(gradient + i, lanes) * factor, p = take(parameter + i, lanes);
    const Vec mean = take(m + i, lanes) * beta1 + g * rest1;
    const Vec square = take(v + i, lanes) * beta2 + g * g * rest2;
    put(m + i, mean, lanes);
    put(v + i, square, lanes);
    put(parameter + i, p - rate * (mean / (sqrt(square) + eps) + decay * p), lanes);
  });
}

}  // namespace

extern const ElementwiseKernels elementwise_kernels = {gate, gate_grad, residual_add, narrow_all, scale, sum_of_squares, adam};

}  // namespace codellama::CODELLAMA_LEVEL
