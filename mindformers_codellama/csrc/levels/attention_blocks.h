// What forward and backward attention share: reading and turning blocks of heads, and who sees whom.
#pragma once

#include "../attention_training.h"
#include "../parallel.h"
#include "block_product.h"

namespace codellama::CODELLAMA_LEVEL {

constexpr int64_t kBlock = kAttentionBlock;
// Added to (binary) scores of what may not be seen: whatever the scores, 2^ of it is exactly 0. Plain operators add -10000,
// which is the same unless scores are thousands apart.
constexpr float kHiddenScore = -1e30f;
// Largest score of a query that has seen nothing yet: above every hidden score, below every other.
constexpr float kNothingSeen = -1e29f;
constexpr float kLog2OfE = 1.44269504f;
constexpr float kLogOf2 = 0.693147181f;

// Sizes of one call, and pointers to one row of the batch and head.
template <class T>
class Heads {
 public:
  Heads(const AttentionCall& call, const AttentionTask& task)
      : call_(call), task_(task), width(call.width), padded((call.width + kLanes - 1) / kLanes * kLanes),
        blocks((call.length + kBlock - 1) / kBlock), group(call.heads / call.kv_heads) {}

  // Lanes of a head, and of a block of positions, when they are summed over.
  int64_t head_steps() const { return padded / kValuesPerLane<T>; }
  static constexpr int64_t kBlockSteps = kBlock / kValuesPerLane<T>;

  int64_t valid(int64_t block) const {
    const int64_t left = call_.length - block * kBlock;
    return left < kBlock ? left : kBlock;
  }
  const int32_t* positions(int64_t block) const { return call_.positions + task_.row * call_.length + block * kBlock; }
  // Head `member` of the group in a tensor [B][S][N H], from the first position of a block.
  template <class U>
  U* query(U* tensor, int64_t member, int64_t block) const {
    return tensor + ((task_.row * call_.length + block * kBlock) * call_.heads + task_.kv_head * group + member) * width;
  }
  // The key/value head in a tensor [B][S][K H].
  template <class U>
  U* key(U* tensor, int64_t block) const {
    return tensor + ((task_.row * call_.length + block * kBlock) * call_.kv_heads + task_.kv_head) * width;
  }
  int64_t query_stride() const { return call_.heads * width; }
  int64_t key_stride() const { return call_.kv_heads * width; }
  float* lse(int64_t member, int64_t block) const {
    return call_.lse + (task_.row * call_.heads + task_.kv_head * group + member) * call_.length + block * kBlock;
  }

 private:
  const AttentionCall& call_;
  const AttentionTask& task_;

 public:
  const int64_t width, padded, blocks, group;
};

// block [kBlock][padded] = `rows` rows of `width` from x, the rest 0.
template <class T>
inline void read_block(const T* x, int64_t stride, int64_t rows, int64_t width, int64_t padded, float* block) {
  for (int64_t row = 0; row < kBlock; ++row, x += stride, block += padded) {
    for (int64_t i = 0; i < padded; i += kLanes) {
      const int64_t left = row < rows ? width - i : 0;
      store(block + i, left >= kLanes ? load(x + i) : left > 0 ? load_first(x + i, static_cast<int>(left)) : zero());
    }
  }
}

// The other way: x = block * scale.
template <class T>
inline void write_block(const float* block, int64_t rows, int64_t width, int64_t padded, float scale, T* x, int64_t stride) {
  const Vec factor = broadcast(scale);
  for (int64_t row = 0; row < rows; ++row, x += stride, block += padded) {
    for (int64_t i = 0; i < width; i += kLanes) {
      const Vec y = load(block + i) * factor;
      if (width - i >= kLanes) {
        store(x + i, y);
      } else {
        store_first(x + i, y, static_cast<int>(width - i));
      }
    }
  }
}

// Turns the first `rows` rows of a block by their positions (model/rope.py); `sign` -1 turns back.
inline void turn_block(float* block, int64_t rows, int64_t width, int64_t padded, const float* table, const int32_t* positions,
                       float sign) {
  const int64_t half = width / 2;
  const Vec direction = broadcast(sign);
  for (int64_t row = 0; row < rows; ++row, block += padded) {
    const float* cosines = table + positions[row] * width;
    int64_t i = 0;
    for (; i + kLanes <= half; i += kLanes) {
      const Vec a = load(block + i), b = load(block + half + i);
      const Vec cosine = load(cosines + i), sine = load(cosines + half + i) * direction;
      store(block + i, a * cosine - b * sine);
      store(block + half + i, b * cosine + a * sine);
    }
    if (i < half) {
      const int count = static_cast<int>(half - i);
      const Vec a = load_first(block + i, count), b = load_first(block + half + i, count);
      const Vec cosine = load_first(cosines + i, count), sine = load_first(cosines + half + i, count) * direction;
      store_first(block + i, a * cosine - b * sine, count);
      store_first(block + half + i, b * cosine + a * sine, count);
    }
  }
}

// Who sees whom in one row of the batch, by blocks.
class Visibility {
 public:
  enum Answer { kNothing, kAll, kSome };

  Visibility(const AttentionCall& call, int64_t row)
      : segments_(call.segments + row * call.length), tokens_(call.tokens + row * call.length), length_(call.length),
        pad_(call.pad_token) {}

  // Of the keys of block `keys` by the queries of block `queries` (keys <= queries).
  Answer of(int64_t queries, int64_t keys) const {
    const Facts q = facts(queries), k = facts(keys);
    if (k.shown == 0 || k.highest < q.lowest || q.highest < k.lowest) return kNothing;
    const bool is_one = q.lowest == q.highest && k.lowest == k.highest && q.lowest == k.lowest;
    return is_one && keys < queries && k.shown == kBlock ? kAll : kSome;
  }

  // mask [key][query] = 0 where the key may be seen, kHiddenScore elsewhere.
  void fill(int64_t queries, int64_t keys, float* mask) const {
    int32_t segment[kBlock] = {};
    for (int64_t s = queries * kBlock; s < end(queries); ++s) segment[s - queries * kBlock] = segments_[s];
    for (int64_t i = 0; i < kBlock; ++i, mask += kBlock) {
      const int64_t t = keys * kBlock + i;
      const bool shown = t < length_ && tokens_[t] != pad_;
      const int32_t own = shown ? segments_[t] : 0;
      const int first = shown ? static_cast<int>(t - queries * kBlock) : static_cast<int>(kBlock);
      for (int s = 0; s < kBlock; ++s) mask[s] = (s >= first) & (segment[s] == own) ? 0.0f : kHiddenScore;
    }
  }

 private:
  struct Facts {
    int32_t lowest, highest;  // segments
    int64_t shown;            // keys that are no pad
  };

  int64_t end(int64_t block) const { return (block + 1) * kBlock < length_ ? (block + 1) * kBlock : length_; }

  Facts facts(int64_t block) const {
    const int64_t begin = block * kBlock;
    Facts result{segments_[begin], segments_[begin], 0};
    for (int64_t s = begin; s < end(block); ++s) {
      result.lowest = segments_[s] < result.lowest ? segments_[s] : result.lowest;
      result.highest = segments_[s] > result.highest ? segments_[s] : result.highest;
      result.shown += tokens_[s] != pad_;
    }
    return result;
  }

  const int32_t* segments_;
  const int32_t* tokens_;
  int64_t length_;
  int32_t pad_;
};

}  // namespace codellama::CODELLAMA_LEVEL
