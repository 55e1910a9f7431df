// Forward half of attention_training.h. Scores are made with keys as rows and queries as columns, so that every sum and maximum
// of the softmax runs down columns, 16 queries at a time.
#include "attention_backward.h"
#include "attention_blocks.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

// Memory of one thread, kept from call to call.
struct ForwardScratch {
  Scratch block, pairs, keys, values, query, scores, weights, mask, mixed;
};

// Largest score and sum of exponentials of the queries of a block, in units of log 2.
struct Softmax {
  float top[kBlock], sum[kBlock];
};

// Keys of all blocks as left factor [positions][head steps] and values as left factor [padded][position steps].
template <class T>
void prepare_keys(const AttentionCall& call, const Heads<T>& heads, int64_t blocks, ForwardScratch& scratch, LaneMatrix<T> keys,
                  LaneMatrix<T> values) {
  float* block = scratch.block.get<float>(kBlock * heads.padded);
  const LaneMatrix<T> pairs{scratch.pairs.get<T>(kBlock * heads.padded), heads.padded};
  for (int64_t j = 0; j < blocks; ++j) {
    read_block(heads.key(static_cast<const T*>(call.k), j), heads.key_stride(), heads.valid(j), heads.width, heads.padded, block);
    turn_block(block, heads.valid(j), heads.width, heads.padded, call.table, heads.positions(j), 1.0f);
    put_rows(block, kBlock, heads.padded, LaneMatrix<T>{keys.at(j * kBlock, 0), keys.stride});
    read_block(heads.key(static_cast<const T*>(call.v), j), heads.key_stride(), heads.valid(j), heads.width, heads.padded, block);
    put_row_pairs(block, kBlock, heads.padded, pairs);
    // rows of pairs are the steps of a block; 16 of them at a time
    transpose_lanes(pairs, Heads<T>::kBlockSteps, heads.padded, LaneMatrix<T>{values.at(0, j * Heads<T>::kBlockSteps), values.stride});
  }
}

// Queries of a block as right factor [head steps][kBlock].
template <class T>
void prepare_queries(const AttentionCall& call, const Heads<T>& heads, int64_t member, int64_t i, ForwardScratch& scratch,
                     LaneMatrix<T> query) {
  float* block = scratch.block.get<float>(kBlock * heads.padded);
  const LaneMatrix<T> rows{scratch.pairs.get<T>(kBlock * heads.padded), heads.head_steps()};
  read_block(heads.query(static_cast<const T*>(call.q), member, i), heads.query_stride(), heads.valid(i), heads.width, heads.padded, block);
  turn_block(block, heads.valid(i), heads.width, heads.padded, call.table, heads.positions(i), 1.0f);
  put_rows(block, kBlock, heads.padded, rows);
  transpose_lanes(rows, kBlock, heads.head_steps(), query);
}

// Scores of 16 queries and key t in units of log 2; hidden ones far below all others.
template <bool Masked>
inline Vec score_at(const float* scores, const float* mask, int64_t at, Vec factor) {
  return Masked ? fma(load(scores + at), factor, load(mask + at)) : load(scores + at) * factor;
}

// One block of keys: scores [key][query] become weights, a right factor [key steps][query]; `mixed` [padded][query] and the
// sums so far are brought to the new largest scores. `mask` is read when there is something to hide.
template <bool Masked, class T>
void weigh(const float* scores, const float* mask, float scale, Softmax& softmax, LaneMatrix<T> weights, float* mixed, int64_t padded) {
  const Vec factor = broadcast(scale);
  for (int64_t s = 0; s < kBlock; s += kLanes) {
    const Vec before = load(softmax.top + s);
    Vec tops[2] = {before, before};
    for (int64_t t = 0; t < kBlock; t += 2) {
      tops[0] = max(tops[0], score_at<Masked>(scores, mask, t * kBlock + s, factor));
      tops[1] = max(tops[1], score_at<Masked>(scores, mask, (t + 1) * kBlock + s, factor));
    }
    const Vec top = max(tops[0], tops[1]);
    Vec sums[2] = {zero(), zero()};
    for (int64_t t = 0; t < kBlock; t += 2) {
      const Vec even = exp2_or_zero(score_at<Masked>(scores, mask, t * kBlock + s, factor) - top);
      const Vec odd = exp2_or_zero(score_at<Masked>(scores, mask, (t + 1) * kBlock + s, factor) - top);
      sums[0] = sums[0] + even;
      sums[1] = sums[1] + odd;
      store_row_pair(weights, t, s, even, odd);
    }
    const Vec shrink = exp2_or_zero(before - top);
    store(softmax.sum + s, fma(load(softmax.sum + s), shrink, sums[0] + sums[1]));
    store(softmax.top + s, top);
    if (sum(shrink) == static_cast<float>(kLanes)) continue;  // nothing grew
    for (int64_t h = 0; h < padded; ++h) store(mixed + h * kBlock + s, load(mixed + h * kBlock + s) * shrink);
  }
}

// o and lse of a block of queries from its sums.
template <class T>
void finish(const AttentionCall& call, const Heads<T>& heads, int64_t member, int64_t i, const Softmax& softmax, const float* mixed,
            float* block) {
  float* lse = heads.lse(member, i);
  const LaneMatrix<float> rows{block, heads.padded};
  transpose_lanes(LaneMatrix<float>{const_cast<float*>(mixed), kBlock}, heads.padded, kBlock, rows);
  T* o = heads.query(static_cast<T*>(call.o), member, i);
  for (int64_t s = 0; s < heads.valid(i); ++s) {
    const bool sees = !(softmax.sum[s] <= 0.0f);  // NaN is passed on
    lse[s] = sees ? (softmax.top[s] + std::log2(softmax.sum[s])) * kLogOf2 : 0.0f;
    write_block(block + s * heads.padded, 1, heads.width, heads.padded, sees ? 1.0f / softmax.sum[s] : 0.0f, o + s * heads.query_stride(),
                heads.query_stride());
  }
}

template <class T>
void forward(const AttentionCall& call, const AttentionTask& task) {
  static thread_local ForwardScratch scratch;
  const Heads<T> heads(call, task);
  const Visibility visible(call, task.row);
  const int64_t positions = task.query_end * kBlock;
  const float scale = kLog2OfE / std::sqrt(static_cast<float>(heads.width));
  const LaneMatrix<T> keys{scratch.keys.get<T>(positions * heads.padded), heads.head_steps()};
  const LaneMatrix<T> values{scratch.values.get<T>(positions * heads.padded), positions / kValuesPerLane<T>};
  const LaneMatrix<T> query{scratch.query.get<T>(kBlock * heads.padded), kBlock};
  const LaneMatrix<T> weights{scratch.weights.get<T>(kBlock * kBlock), kBlock};
  float* scores = scratch.scores.get<float>(kBlock * kBlock);
  float* mask = scratch.mask.get<float>(kBlock * kBlock);
  float* mixed = scratch.mixed.get<float>(kBlock * heads.padded);
  prepare_keys(call, heads, task.query_end, scratch, keys, values);
  for (int64_t i = task.query_begin; i < task.query_end; ++i) {
    for (int64_t member = 0; member < heads.group; ++member) {
      prepare_queries(call, heads, member, i, scratch, query);
      Softmax softmax;
      for (int64_t s = 0; s < kBlock; ++s) softmax.top[s] = kNothingSeen, softmax.sum[s] = 0.0f;
      for (int64_t n = 0; n < kBlock * heads.padded; ++n) mixed[n] = 0.0f;
      for (int64_t j = 0; j <= i; ++j) {
        const Visibility::Answer answer = visible.of(i, j);
        if (answer == Visibility::kNothing) continue;
        if (answer == Visibility::kSome) visible.fill(i, j, mask);
        const LaneMatrix<T> key{keys.at(j * kBlock, 0), keys.stride};
        const LaneMatrix<T> value{values.at(0, j * Heads<T>::kBlockSteps), values.stride};
        block_product(key, query, kBlock, kBlock, heads.head_steps(), scores, kBlock, false,
                      i == j ? Causal::kColumnsFromRow : Causal::kNot);
        if (answer == Visibility::kSome) {
          weigh<true>(scores, mask, scale, softmax, weights, mixed, heads.padded);
        } else {
          weigh<false>(scores, mask, scale, softmax, weights, mixed, heads.padded);
        }
        block_product(value, weights, heads.padded, kBlock, Heads<T>::kBlockSteps, mixed, kBlock, true,
                      i == j ? Causal::kStepsBeforeColumns : Causal::kNot);
      }
      finish(call, heads, member, i, softmax, mixed, scratch.block.get<float>(kBlock * heads.padded));
    }
  }
}

void forward_any(const AttentionCall& call, const AttentionTask& task) {
  if (call.bfloat16) {
    forward<Bfloat16>(call, task);
  } else {
    forward<float>(call, task);
  }
}

}  // namespace

extern const AttentionTrainingKernels attention_training_kernels = {forward_any, attention_backward};

}  // namespace codellama::CODELLAMA_LEVEL
