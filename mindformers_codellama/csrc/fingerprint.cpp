// Notices that weights, which belong to somebody else, have changed.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "forward.h"

namespace codellama {
namespace {

// Bytes that are summed by one thread at a time, and sums that run beside each other in one block.
constexpr int64_t kBlock = int64_t{1} << 20;
constexpr int kSums = 8;
constexpr uint64_t kPrime = 0x9e3779b97f4a7c15u;

struct Memory {
  const unsigned char* bytes;
  int64_t size;
};

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

// Every step is one to one in the word it takes, so that a change of a single word always changes the result.
uint64_t sum_of(const Memory& block, uint64_t seed) {
  uint64_t sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = mix(seed * kSums + i + 1);
  int64_t place = 0;
  for (; place + kSums * 8 <= block.size; place += kSums * 8) {
    uint64_t words[kSums];
    std::memcpy(words, block.bytes + place, sizeof(words));
    for (int i = 0; i < kSums; ++i) sums[i] = (sums[i] ^ words[i]) * kPrime + (sums[i] >> 29);
  }
  uint64_t rest[kSums] = {};
  std::memcpy(rest, block.bytes + place, static_cast<size_t>(block.size - place));
  uint64_t result = 0;
  for (int i = 0; i < kSums; ++i) result = mix(result + mix(sums[i] ^ rest[i]));
  return result;
}

std::vector<Memory> blocks_of(const LlamaModel& model) {
  std::vector<Memory> blocks;
  const auto add = [&](const void* data, int64_t floats) {
    if (data == nullptr) return;
    for (int64_t place = 0; place < floats * 4; place += kBlock) {
      blocks.push_back({static_cast<const unsigned char*>(data) + place, std::min(kBlock, floats * 4 - place)});
    }
  };
  add(model.embedding, model.vocabulary * model.hidden);
  for (const LayerWeights& layer : model.layer) {
    add(layer.attention_norm, model.hidden);
    add(layer.ffn_norm, model.hidden);
    for (const WeightMatrix* matrix : {&layer.wq, &layer.wk, &layer.wv, &layer.wo, &layer.gate, &layer.up, &layer.down}) {
      add(matrix->values, matrix->rows * matrix->columns);
    }
    add(layer.q_bias, model.width());
    add(layer.k_bias, model.kv_width());
    add(layer.v_bias, model.kv_width());
  }
  add(model.final_norm, model.hidden);
  add(model.head.values, model.vocabulary * model.hidden);
  return blocks;
}

}  // namespace

uint64_t fingerprint(const LlamaModel& model) {
  const std::vector<Memory> blocks = blocks_of(model);
  std::vector<uint64_t> sums(blocks.size());
  std::atomic<size_t> next{0};
  parallel_for([&](int, int) {
    for (size_t i = next.fetch_add(1); i < blocks.size(); i = next.fetch_add(1)) sums[i] = sum_of(blocks[i], i);
  });
  uint64_t result = 0;
  for (uint64_t sum : sums) result = mix(result ^ sum);
  return result;
}

}  // namespace codellama
