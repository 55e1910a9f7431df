#include "../paged_attention.h"

#include <algorithm>
#include <limits>

#include "../parallel.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

// Rows and Vecs of results that are kept in registers together.
#if defined(CODELLAMA_AVX512)
constexpr int kTileRows = 6;
constexpr int kTileVecs = 4;
#else
constexpr int kTileRows = 2;
constexpr int kTileVecs = 2;
#endif

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// Element types of the pools: how many k one step takes, and c + b * a for 16 columns of b and one row of a.
struct Float {
  using Type = float;
  static constexpr int64_t kStep = 1;
  static Vec add_product(Vec c, const float* b, const float* a) { return fma(load(b), broadcast(*a), c); }
  static float of(float x) { return x; }
};
struct Half {
  using Type = Bfloat16;
  static constexpr int64_t kStep = 2;
  static Vec add_product(Vec c, const Bfloat16* b, const Bfloat16* a) { return dot_pairs(c, b, a); }
  static Bfloat16 of(float x) { return to_bfloat16(x); }
};

// c[r][16 v + i] = c[r][16 v + i] * keep[r] + sum over steps s of a[r][s] * b[s][v][i]; without `keep` c is only written.
template <class Element>
struct Factors {
  const typename Element::Type* a;
  int64_t a_stride;
  const typename Element::Type* b;
  int64_t b_step;  // elements between two steps
  int64_t b_vec;   // elements between two Vecs of columns
  int64_t steps;
  float* c;
  int64_t c_stride;
  const float* keep;
};

template <class Element, int kRows, int kVecs>
void multiply_tile(const Factors<Element>& f, int64_t row, int64_t vec) {
  Vec sums[kRows][kVecs];
  float* c = f.c + row * f.c_stride + vec * kLanes;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      sums[r][v] = f.keep == nullptr ? zero() : load(c + r * f.c_stride + v * kLanes) * broadcast(f.keep[row + r]);
    }
  }
  const typename Element::Type* a = f.a + row * f.a_stride;
  const typename Element::Type* b = f.b + vec * f.b_vec;
  for (int64_t step = 0; step < f.steps; ++step, a += Element::kStep, b += f.b_step) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVecs; ++v) sums[r][v] = Element::add_product(sums[r][v], b + v * f.b_vec, a + r * f.a_stride);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) store(c + r * f.c_stride + v * kLanes, sums[r][v]);
  }
}

// The last `rows` (fewer than kRows) rows of a column of tiles.
template <class Element, int kRows, int kVecs>
void multiply_rest(const Factors<Element>& f, int64_t row, int64_t rows, int64_t vec) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      multiply_tile<Element, kRows, kVecs>(f, row, vec);
    } else {
      multiply_rest<Element, kRows - 1, kVecs>(f, row, rows, vec);
    }
  }
}

template <class Element, int kVecs>
void multiply_columns(const Factors<Element>& f, int64_t rows, int64_t vec) {
  int64_t row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) multiply_tile<Element, kTileRows, kVecs>(f, row, vec);
  multiply_rest<Element, kTileRows - 1, kVecs>(f, row, rows - row, vec);
}

// The last `vecs` (fewer than kVecs) columns.
template <class Element, int kVecs>
void multiply_last_columns(const Factors<Element>& f, int64_t rows, int64_t vec, int64_t vecs) {
  if constexpr (kVecs > 0) {
    if (vecs == kVecs) {
      multiply_columns<Element, kVecs>(f, rows, vec);
    } else {
      multiply_last_columns<Element, kVecs - 1>(f, rows, vec, vecs);
    }
  }
}

template <class Element>
void multiply(const Factors<Element>& f, int64_t rows, int64_t vecs) {
  int64_t vec = 0;
  for (; vec + kTileVecs <= vecs; vec += kTileVecs) multiply_columns<Element, kTileVecs>(f, rows, vec);
  multiply_last_columns<Element, kTileVecs - 1>(f, rows, vec, vecs - vec);
}

// One head turned to its position: y[i] = x[i] cos[i] + x[other half's i] sin[i], the bias added before.
void rotate(const HeadShape& shape, const float* x, const float* bias, int64_t position, float* y) {
  const int64_t half = shape.head_dim / 2;
  const float* cosines = shape.cosines + position * shape.head_dim;
  const float* sines = shape.sines + position * shape.head_dim;
  for (int64_t i = 0; i < half; ++i) {
    const float a = bias == nullptr ? x[i] : x[i] + bias[i];
    const float b = bias == nullptr ? x[half + i] : x[half + i] + bias[half + i];
    y[i] = a * cosines[i] + b * sines[i];
    y[half + i] = b * cosines[half + i] + a * sines[half + i];
  }
}

template <class Element>
typename Element::Type* page_of(void* pool, const CacheHead& cache, int64_t page) {
  return static_cast<typename Element::Type*>(pool) + cache.pages[page] * cache.page_stride;
}

template <class Element>
void store_elements(const HeadShape& shape, const CacheHead& cache, const NewToken& token, const float* rotated) {
  constexpr int64_t kStep = Element::kStep;
  const int64_t page = token.position / shape.page_size;
  const int64_t place = token.position % shape.page_size;
  auto* keys = page_of<Element>(cache.keys, cache, page) + place / kLanes * kLanes * shape.padded + place % kLanes * kStep;
  auto* values = page_of<Element>(cache.values, cache, page) + place / kStep * kStep * shape.padded + place % kStep;
  for (int64_t i = 0; i < shape.head_dim; ++i) {
    keys[i / kStep * kStep * kLanes + i % kStep] = Element::of(rotated[i]);
    const float value = token.value_bias == nullptr ? token.value[i] : token.value[i] + token.value_bias[i];
    values[i * kStep] = Element::of(value);
  }
}

void store_token(const HeadShape& shape, const CacheHead& cache, const NewToken& token) {
  static thread_local Scratch memory;
  float* rotated = memory.get<float>(shape.head_dim);
  rotate(shape, token.key, token.key_bias, token.position, rotated);
  if (shape.bfloat16) {
    store_elements<Half>(shape, cache, token, rotated);
  } else {
    store_elements<Float>(shape, cache, token, rotated);
  }
}

// Rotated and scaled queries of a block, [rows][H'].
template <class Element>
void gather_queries(const HeadShape& shape, const QueryBlock& block, float* rotated, typename Element::Type* queries) {
  for (int64_t row = 0; row < block.rows; ++row, queries += shape.padded) {
    const int64_t token = (block.first_row + row) / shape.group;
    const int64_t place = (block.first_row + row) % shape.group * shape.head_dim;
    const float* x = block.queries + token * block.token_stride + place;
    rotate(shape, x, block.bias == nullptr ? nullptr : block.bias + place, block.first_position + token, rotated);
    for (int64_t i = 0; i < shape.head_dim; ++i) queries[i] = Element::of(rotated[i] * shape.scale);
  }
}

// State of one query row while its softmax runs over the pages.
struct Running {
  float& largest;
  float& total;
  float& keep;  // what the mixture so far must be multiplied with
};

// Scores of one query row and `blocks` blocks of 16 keys, of which `visible` keys count, to weights; the others' become 0.
template <class Element>
void soften(float* scores, typename Element::Type* weights, int64_t blocks, int64_t visible, const Running& row) {
  const int64_t count = blocks * kLanes;
  row.keep = 1.0f;
  if (visible <= 0) {
    std::fill(weights, weights + count, typename Element::Type{});
    return;
  }
  const int64_t used = (std::min(visible, count) + kLanes - 1) / kLanes * kLanes;
  if (visible < used) std::fill(scores + visible, scores + used, kNothing);
  Vec most = load(scores);
  for (int64_t i = kLanes; i < used; i += kLanes) most = max(most, load(scores + i));
  const float largest_now = std::max(row.largest, largest(most));
  row.keep = row.largest == kNothing ? 0.0f : std::exp(row.largest - largest_now);
  row.largest = largest_now;
  const Vec shift = broadcast(largest_now);
  Vec total = zero();
  for (int64_t i = 0; i < used; i += kLanes) {
    const Vec weight = exp(load(scores + i) - shift);
    total = total + weight;
    store(weights + i, weight);
  }
  row.total = row.total * row.keep + sum(total);
  // exp() gives a very small number instead of 0 for what is hidden
  if (visible < count) std::fill(weights + visible, weights + count, typename Element::Type{});
}

// Memory of one attend().
template <class Element>
struct Working {
  typename Element::Type* queries;  // [kQueryRows][H']
  typename Element::Type* weights;  // [kQueryRows][page size]
  typename Element::Type* pair;     // [H'][2]
  float* scores;                    // [kQueryRows][page size]
  float* keep;                      // [kQueryRows]
  float* rotated;                   // [head_dim]
};

template <class Element>
Working<Element> working_memory(const HeadShape& shape) {
  using Type = typename Element::Type;
  static thread_local Scratch elements;
  static thread_local Scratch floats;
  const int64_t queries = kQueryRows * shape.padded, scores = kQueryRows * shape.page_size;
  Type* first = elements.get<Type>(queries + scores + 2 * shape.padded);
  float* second = floats.get<float>(scores + kQueryRows + shape.head_dim);
  return {first, first + queries, first + queries + scores, second, second + scores, second + scores + kQueryRows};
}

// Adds `count` weighted values of one page to the mixture.
template <class Element>
void mix(const HeadShape& shape, const Working<Element>& work, const typename Element::Type* values, int64_t rows, int64_t count,
         float* mixed) {
  constexpr int64_t kStep = Element::kStep;
  const int64_t vecs = shape.padded / kLanes, whole = count / kStep;
  Factors<Element> f{work.weights, shape.page_size, values, shape.padded * kStep, kLanes * kStep, whole, mixed, shape.padded, work.keep};
  multiply(f, rows, vecs);
  if (count % kStep == 0) return;
  // The last pair's second value was never written, or is what an earlier user of the page left there.
  for (int64_t i = 0; i < shape.padded; ++i) {
    work.pair[2 * i] = values[whole * kStep * shape.padded + 2 * i];
    work.pair[2 * i + 1] = typename Element::Type{};
  }
  std::fill(work.keep, work.keep + rows, 1.0f);
  f.a += whole * kStep;
  f.b = work.pair;
  f.steps = 1;
  multiply(f, rows, vecs);
}

template <class Element>
void attend_elements(const HeadShape& shape, const CacheHead& cache, const QueryBlock& block, int64_t first_page, int64_t end_page,
                     const Mixture& mixture) {
  constexpr int64_t kStep = Element::kStep;
  const Working<Element> work = working_memory<Element>(shape);
  gather_queries<Element>(shape, block, work.rotated, work.queries);
  std::fill(mixture.largest, mixture.largest + block.rows, kNothing);
  std::fill(mixture.total, mixture.total + block.rows, 0.0f);
  std::fill(mixture.mixed, mixture.mixed + block.rows * shape.padded, 0.0f);
  const int64_t last_token = (block.first_row + block.rows - 1) / shape.group;
  const int64_t keys = block.first_position + last_token + 1;
  for (int64_t page = first_page; page < end_page && page * shape.page_size < keys; ++page) {
    const int64_t begin = page * shape.page_size;
    const int64_t count = std::min(shape.page_size, keys - begin);
    const int64_t blocks = (count + kLanes - 1) / kLanes;
    multiply(Factors<Element>{work.queries, shape.padded, page_of<Element>(cache.keys, cache, page), kLanes * kStep, kLanes * shape.padded,
                              shape.head_dim / kStep, work.scores, shape.page_size, nullptr},
             block.rows, blocks);
    for (int64_t row = 0; row < block.rows; ++row) {
      const int64_t position = block.first_position + (block.first_row + row) / shape.group;
      soften<Element>(work.scores + row * shape.page_size, work.weights + row * shape.page_size, blocks, position + 1 - begin,
                      {mixture.largest[row], mixture.total[row], work.keep[row]});
    }
    mix(shape, work, page_of<Element>(cache.values, cache, page), block.rows, count, mixture.mixed);
  }
}

void attend(const HeadShape& shape, const CacheHead& cache, const QueryBlock& block, int64_t first_page, int64_t end_page,
            const Mixture& mixture) {
  if (shape.bfloat16) {
    attend_elements<Half>(shape, cache, block, first_page, end_page, mixture);
  } else {
    attend_elements<Float>(shape, cache, block, first_page, end_page, mixture);
  }
}

void finish(const HeadShape& shape, const QueryBlock& block, const Mixture& mixture, int64_t parts, float* output, int64_t token_stride) {
  for (int64_t row = 0; row < block.rows; ++row) {
    const int64_t token = (block.first_row + row) / shape.group;
    float* y = output + token * token_stride + (block.first_row + row) % shape.group * shape.head_dim;
    float largest_of_all = kNothing;
    for (int64_t part = 0; part < parts; ++part) largest_of_all = std::max(largest_of_all, mixture.largest[part * kQueryRows + row]);
    float total = 0.0f;
    std::fill(y, y + shape.head_dim, 0.0f);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t place = part * kQueryRows + row;
      if (mixture.largest[place] == kNothing) continue;
      const float share = std::exp(mixture.largest[place] - largest_of_all);
      total += mixture.total[place] * share;
      for (int64_t i = 0; i < shape.head_dim; ++i) y[i] += mixture.mixed[place * shape.padded + i] * share;
    }
    for (int64_t i = 0; i < shape.head_dim; ++i) y[i] /= total;
  }
}

void gate(float* gate, const float* up, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(gate + i, silu(load(gate + i)) * load(up + i));
  const int rest = static_cast<int>(count - i);
  store_first(gate + i, silu(load_first(gate + i, rest)) * load_first(up + i, rest), rest);
}

}  // namespace

extern const PagedAttentionKernels paged_attention_kernels = {store_token, attend, finish, gate};

}  // namespace codellama::CODELLAMA_LEVEL
