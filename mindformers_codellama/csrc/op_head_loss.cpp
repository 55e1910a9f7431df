// Entry points of the output head with its loss.
//
// All work on chunks of tokens: logits of a chunk are made by one product, become the gradient of the logits in place, and two
// more products turn that into gradients of the hidden states and of the head. No product is made twice, and what a chunk
// takes is bounded. Tokens of weight 0 take no part.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "cross_entropy.h"
#include "gemm.h"
#include "op.h"
#include "parallel.h"

namespace codellama {
namespace {

// Bytes of logits at once, and the fewest tokens of a chunk (fewer and reading the head costs more than multiplying by it).
constexpr int64_t kLogitBytes = 24 << 20;
constexpr int64_t kFewestTokens = 64;

struct HeadLossCall {
  bool bfloat16 = false;  // type of hidden, its gradient and all products
  const char* hidden = nullptr;
  const float* head = nullptr;
  const int32_t* labels = nullptr;
  const float* weights = nullptr;
  char* dhidden = nullptr;  // null: no gradients
  float* dhead = nullptr;  // null: of a frozen head none
  int64_t tokens = 0, width = 0, vocabulary = 0;

  int64_t row_bytes() const { return width * (bfloat16 ? 2 : 4); }
};

// hidden [X, D], head [V, D], labels int32 [X], weights float32 [X] at 0 to 3, checked; tokens of weight 0 may have any label.
HeadLossCall read_call(const Arguments& in, std::vector<int64_t>& kept) {
  HeadLossCall call;
  call.bfloat16 = in.is(0, "bfloat16");
  call.hidden = static_cast<const char*>(in.typed(0, call.bfloat16 ? "bfloat16" : "float32"));
  call.head = in.floats(1), call.labels = in.ints(2), call.weights = in.floats(3);
  in.require(in.dims(1) == 2 && in.last(1) == in.last(0), "hidden must be [X, D] and the head [V, D]");
  call.tokens = in.rows(0), call.width = in.last(0), call.vocabulary = in.size(1, 0);
  in.require(in.elements(2) == call.tokens && in.elements(3) == call.tokens, "labels and weights must be [X]");
  for (int64_t token = 0; token < call.tokens; ++token) {
    if (call.weights[token] == 0.0f) continue;
    in.require(call.labels[token] >= 0 && call.labels[token] < call.vocabulary,
               "label " + std::to_string(call.labels[token]) + " is not in the vocabulary");
    kept.push_back(token);
  }
  return call;
}

Operand matrix(const void* data, int64_t stride, bool bfloat16, bool transposed) {
  Operand result;
  result.data = data, result.stride = stride, result.bfloat16 = bfloat16, result.transposed = transposed;
  return result;
}

// result [m, n] = left * right over k.
Product product(const HeadLossCall& call, int64_t m, int64_t n, int64_t k, const Operand& left, const Operand& right) {
  Product result;
  result.m = m, result.n = n, result.stride = n;
  result.terms.push_back(Term{left, right, k});
  result.compute = call.bfloat16 ? Compute::kBfloat16 : Compute::kFloat32;
  return result;
}

// Memory of one call, given back to the system at its end: it would stand at the peak of a training step, which comes right after.
class Passing {
 public:
  explicit Passing(int64_t bytes) : bytes_(static_cast<size_t>(std::max<int64_t>(bytes, 1))) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) throw std::bad_alloc();
  }
  ~Passing() { munmap(data_, bytes_); }
  Passing(const Passing&) = delete;
  Passing& operator=(const Passing&) = delete;

  // `count` elements of T from byte `offset`.
  template <class T>
  T* at(int64_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_) + offset);
  }

 private:
  void* data_;
  size_t bytes_;
};

// What chunks of `tokens` use one after the other.
struct ChunkMemory {
  ChunkMemory(const HeadLossCall& call, int64_t tokens)
      : memory(tokens * (call.vocabulary * 4 + 2 * call.row_bytes())),
        logits(memory.at<float>(0)),
        hidden(memory.at<char>(tokens * call.vocabulary * 4)),
        dhidden(hidden + tokens * call.row_bytes()) {}

  const Passing memory;
  float* const logits;
  char *const hidden, *const dhidden;
};

// Losses of the tokens `kept[0..count)`; their gradients, those that are asked for: added to dhead unless this is the first chunk.
void run_chunk(const HeadLossCall& call, const ChunkMemory& memory, const int64_t* kept, int64_t count, bool first, double* losses) {
  const int64_t d = call.width, v = call.vocabulary, bytes = call.row_bytes();
  char* const hidden = memory.hidden;
  float* const logits = memory.logits;
  for (int64_t i = 0; i < count; ++i) std::memcpy(hidden + i * bytes, call.hidden + kept[i] * bytes, bytes);
  Product forward = product(call, count, v, d, matrix(hidden, d, call.bfloat16, false), matrix(call.head, d, false, true));
  forward.result = logits;
  gemm(forward);
  parallel_for([&](int worker, int workers) {
    const Piece own = piece_of(count, worker, workers);
    for (int64_t i = own.begin; i < own.end; ++i) {
      const float weight = call.weights[kept[i]];
      const double loss = cross_entropy().token_loss(logits + i * v, v, call.labels[kept[i]], weight, call.dhidden != nullptr);
      losses[i] = loss * static_cast<double>(weight);
    }
  });
  if (call.dhidden == nullptr) return;
  char* const dhidden = memory.dhidden;
  Product to_hidden = product(call, count, d, v, matrix(logits, v, false, false), matrix(call.head, d, false, false));
  to_hidden.result = dhidden, to_hidden.bfloat16 = call.bfloat16;
  gemm(to_hidden);
  for (int64_t i = 0; i < count; ++i) std::memcpy(call.dhidden + kept[i] * bytes, dhidden + i * bytes, bytes);
  if (call.dhead == nullptr) return;
  Product to_head = product(call, v, d, count, matrix(logits, v, false, true), matrix(hidden, d, call.bfloat16, false));
  to_head.result = call.dhead, to_head.accumulate = !first;
  gemm(to_head);
}

float run(const HeadLossCall& call, const std::vector<int64_t>& kept) {
  const int64_t count = static_cast<int64_t>(kept.size());
  const int64_t chunk = std::max(kFewestTokens, kLogitBytes / 4 / std::max<int64_t>(1, call.vocabulary) / 16 * 16);
  std::vector<double> losses(count);
  if (call.dhidden != nullptr) {
    if (count < call.tokens) std::memset(call.dhidden, 0, call.tokens * call.row_bytes());
    if (count == 0 && call.dhead != nullptr) std::memset(call.dhead, 0, call.vocabulary * call.width * 4);
  }
  const ChunkMemory memory(call, std::min(chunk, count));
  for (int64_t begin = 0; begin < count; begin += chunk) {
    run_chunk(call, memory, kept.data() + begin, std::min(chunk, count - begin), begin == 0, losses.data() + begin);
  }
  double total = 0.0;
  for (double loss : losses) total += loss;
  return static_cast<float>(total);
}

}  // namespace
}  // namespace codellama

// HeadLoss(hidden [X, D] float32 or bfloat16, head float32 [V, D], labels int32 [X], weights float32 [X]) -> float32 [1]
CODELLAMA_OP(HeadLoss) {
  in.expect_count(5);
  std::vector<int64_t> kept;
  const codellama::HeadLossCall call = codellama::read_call(in, kept);
  in.float_output(4)[0] = codellama::run(call, kept);
}

// HeadLossWithGrad(the inputs of HeadLoss) -> loss float32 [1], dhidden like hidden, dhead float32 [V, D]
CODELLAMA_OP(HeadLossWithGrad) {
  in.expect_count(7);
  std::vector<int64_t> kept;
  codellama::HeadLossCall call = codellama::read_call(in, kept);
  in.require(in.elements(5) == in.elements(0) && in.elements(6) == in.elements(1), "outputs of another size");
  call.dhidden = static_cast<char*>(in.typed(5, call.bfloat16 ? "bfloat16" : "float32"));
  call.dhead = in.float_output(6);
  in.float_output(4)[0] = codellama::run(call, kept);
}

// HeadLossInputGrad(the inputs of HeadLoss) -> loss float32 [1], dhidden like hidden: the head is frozen
CODELLAMA_OP(HeadLossInputGrad) {
  in.expect_count(6);
  std::vector<int64_t> kept;
  codellama::HeadLossCall call = codellama::read_call(in, kept);
  in.require(in.elements(5) == in.elements(0), "an output of another size");
  call.dhidden = static_cast<char*>(in.typed(5, call.bfloat16 ? "bfloat16" : "float32"));
  in.float_output(4)[0] = codellama::run(call, kept);
}
