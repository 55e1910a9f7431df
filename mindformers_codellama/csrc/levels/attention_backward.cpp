// Backward half of attention_training.h. As in the forward half, scores and their gradients are [key][query]. With p the weights,
//   dv = p^T do;  dp = do v^T;  ds = p (dp - delta), delta = sum of do o over the head;  dk = scale ds^T q;  dq = scale ds k.
#include "attention_backward.h"

#include "attention_blocks.h"

namespace codellama::CODELLAMA_LEVEL {
namespace {

// Memory of one thread, kept from call to call.
struct BackwardScratch {
  Scratch block, pairs, other, keys, turned_keys, values, query, query_pairs, grad, grad_pairs, sums, delta, lse;
  Scratch scores, grad_scores, mask, weights, score_rows, score_pairs, dq, dk, dv;
};

// Factors of all keys of a head: k and v as left factors [positions][head steps], k again as left factor [padded][position steps].
template <class T>
struct KeyFactors {
  LaneMatrix<T> keys, turned_keys, values;
};

// Factors of all queries of a head, block after block: q and do as right factors [head steps][kBlock], and again as right
// factors [kBlock steps][padded]; delta and the logarithms of sums (in units of log 2) of every query.
template <class T>
struct QueryFactors {
  LaneMatrix<T> query, query_pairs, grad, grad_pairs;
  float* delta;
  float* lse;
};

template <class T>
KeyFactors<T> prepare_keys(const AttentionCall& call, const Heads<T>& heads, const AttentionTask& task, BackwardScratch& scratch) {
  const int64_t positions = heads.blocks * kBlock;
  const KeyFactors<T> to{{scratch.keys.get<T>(positions * heads.padded), heads.head_steps()},
                         {scratch.turned_keys.get<T>(positions * heads.padded), positions / kValuesPerLane<T>},
                         {scratch.values.get<T>(positions * heads.padded), heads.head_steps()}};
  float* block = scratch.block.get<float>(kBlock * heads.padded);
  const LaneMatrix<T> pairs{scratch.pairs.get<T>(kBlock * heads.padded), heads.padded};
  for (int64_t j = task.key_begin; j < task.key_end; ++j) {
    read_block(heads.key(static_cast<const T*>(call.k), j), heads.key_stride(), heads.valid(j), heads.width, heads.padded, block);
    turn_block(block, heads.valid(j), heads.width, heads.padded, call.table, heads.positions(j), 1.0f);
    put_rows(block, kBlock, heads.padded, LaneMatrix<T>{to.keys.at(j * kBlock, 0), to.keys.stride});
    put_row_pairs(block, kBlock, heads.padded, pairs);
    transpose_lanes(pairs, Heads<T>::kBlockSteps, heads.padded,
                    LaneMatrix<T>{to.turned_keys.at(0, j * Heads<T>::kBlockSteps), to.turned_keys.stride});
    read_block(heads.key(static_cast<const T*>(call.v), j), heads.key_stride(), heads.valid(j), heads.width, heads.padded, block);
    put_rows(block, kBlock, heads.padded, LaneMatrix<T>{to.values.at(j * kBlock, 0), to.values.stride});
  }
  return to;
}

// A block of queries, or of gradients of o, as both right factors.
template <class T>
void put_query_block(const float* block, const Heads<T>& heads, int64_t i, LaneMatrix<T> rows, LaneMatrix<T> to, LaneMatrix<T> pairs_to) {
  put_rows(block, kBlock, heads.padded, rows);
  transpose_lanes(rows, kBlock, heads.head_steps(), LaneMatrix<T>{to.at(i * heads.head_steps(), 0), to.stride});
  put_row_pairs(block, kBlock, heads.padded, LaneMatrix<T>{pairs_to.at(i * Heads<T>::kBlockSteps, 0), pairs_to.stride});
}

template <class T>
QueryFactors<T> prepare_queries(const AttentionCall& call, const Heads<T>& heads, const AttentionTask& task, int64_t member,
                                BackwardScratch& scratch) {
  const int64_t numbers = heads.blocks * kBlock * heads.padded;
  const QueryFactors<T> to{{scratch.query.get<T>(numbers), kBlock},
                           {scratch.query_pairs.get<T>(numbers), heads.padded},
                           {scratch.grad.get<T>(numbers), kBlock},
                           {scratch.grad_pairs.get<T>(numbers), heads.padded},
                           scratch.delta.get<float>(heads.blocks * kBlock),
                           scratch.lse.get<float>(heads.blocks * kBlock)};
  float* block = scratch.block.get<float>(kBlock * heads.padded);
  float* other = scratch.other.get<float>(kBlock * heads.padded);
  const LaneMatrix<T> rows{scratch.pairs.get<T>(kBlock * heads.padded), heads.head_steps()};
  for (int64_t i = task.query_begin; i < task.query_end; ++i) {
    const int64_t valid = heads.valid(i), stride = heads.query_stride();
    read_block(heads.query(static_cast<const T*>(call.q), member, i), stride, valid, heads.width, heads.padded, block);
    turn_block(block, valid, heads.width, heads.padded, call.table, heads.positions(i), 1.0f);
    put_query_block(block, heads, i, rows, to.query, to.query_pairs);
    read_block(heads.query(static_cast<const T*>(call.d_o), member, i), stride, valid, heads.width, heads.padded, block);
    put_query_block(block, heads, i, rows, to.grad, to.grad_pairs);
    read_block(heads.query(static_cast<const T*>(call.o), member, i), stride, valid, heads.width, heads.padded, other);
    for (int64_t s = 0; s < kBlock; ++s) {
      Vec sums = zero();
      for (int64_t h = s * heads.padded; h < (s + 1) * heads.padded; h += kLanes) sums = fma(load(block + h), load(other + h), sums);
      to.delta[i * kBlock + s] = sum(sums);
      to.lse[i * kBlock + s] = s < valid ? heads.lse(member, i)[s] * kLog2OfE : 0.0f;
    }
  }
  return to;
}

// Where the gradients of scores go: weights and score gradients as left factors [key][query steps], the latter also as right
// factor [key steps][query].
template <class T>
struct ScoreFactors {
  LaneMatrix<T> weights, score_rows, score_pairs;
};

// Weights and gradients of scores of 16 queries and one key.
struct Weighed {
  Vec p, ds;
};

template <bool Masked>
inline Weighed weigh_at(const float* scores, const float* grad_weights, const float* mask, int64_t at, Vec factor, Vec log_sum, Vec shift) {
  const Vec hidden = Masked ? load(mask + at) - log_sum : zero() - log_sum;
  const Vec p = exp2_or_zero(fma(load(scores + at), factor, hidden));
  return {p, p * (load(grad_weights + at) - shift)};
}

// Weights and gradients of scores of one block, two keys by 32 queries at a time; `mask` is read when there is something to hide.
template <bool Masked, class T>
void weigh(const float* scores, const float* grad_weights, const float* mask, float scale, const float* lse, const float* delta,
           ScoreFactors<T> to) {
  const Vec factor = broadcast(scale);
  for (int64_t s = 0; s < kBlock; s += 2 * kLanes) {
    const Vec log_sums[2] = {load(lse + s), load(lse + s + kLanes)};
    const Vec shifts[2] = {load(delta + s), load(delta + s + kLanes)};
    for (int64_t t = 0; t < kBlock; t += 2) {
      Weighed made[2][2];
      for (int row = 0; row < 2; ++row) {
        for (int half = 0; half < 2; ++half) {
          const int64_t at = (t + row) * kBlock + s + half * kLanes;
          made[row][half] = weigh_at<Masked>(scores, grad_weights, mask, at, factor, log_sums[half], shifts[half]);
        }
        store_row(to.weights, t + row, s, made[row][0].p, made[row][1].p);
        if (kValuesPerLane<T> > 1) store_row(to.score_rows, t + row, s, made[row][0].ds, made[row][1].ds);
      }
      for (int half = 0; half < 2; ++half) store_row_pair(to.score_pairs, t, s + half * kLanes, made[0][half].ds, made[1][half].ds);
    }
  }
}

// Sums of gradients, float32: dq turned around, [block][padded][kBlock], dk and dv [positions][padded].
struct Sums {
  float *dq, *dk, *dv;
};

// Everything one block of keys and one block of queries give to the sums.
template <class T>
void add_block(const Heads<T>& heads, const AttentionTask& task, const KeyFactors<T>& key, const QueryFactors<T>& query, int64_t i,
               int64_t j, const float* mask, BackwardScratch& scratch, const Sums& sums) {
  float* scores = scratch.scores.get<float>(kBlock * kBlock);
  float* grad_weights = scratch.grad_scores.get<float>(kBlock * kBlock);
  const LaneMatrix<T> pairs{scratch.score_pairs.get<T>(kBlock * kBlock), kBlock};
  // of float32 both layouts are the same
  const LaneMatrix<T> rows =
      kValuesPerLane<T> > 1 ? LaneMatrix<T>{scratch.score_rows.get<T>(kBlock * kBlock), Heads<T>::kBlockSteps} : pairs;
  const ScoreFactors<T> made{{scratch.weights.get<T>(kBlock * kBlock), Heads<T>::kBlockSteps}, rows, pairs};
  const int64_t steps = heads.head_steps(), padded = heads.padded;
  const LaneMatrix<T> q{query.query.at(i * steps, 0), kBlock}, grad{query.grad.at(i * steps, 0), kBlock};
  const Causal columns = i == j ? Causal::kColumnsFromRow : Causal::kNot, from_row = i == j ? Causal::kStepsFromRow : Causal::kNot;
  block_product(LaneMatrix<T>{key.keys.at(j * kBlock, 0), steps}, q, kBlock, kBlock, steps, scores, kBlock, false, columns);
  block_product(LaneMatrix<T>{key.values.at(j * kBlock, 0), steps}, grad, kBlock, kBlock, steps, grad_weights, kBlock, false, columns);
  const float scale = kLog2OfE / std::sqrt(static_cast<float>(heads.width));
  if (mask) {
    weigh<true>(scores, grad_weights, mask, scale, query.lse + i * kBlock, query.delta + i * kBlock, made);
  } else {
    weigh<false>(scores, grad_weights, mask, scale, query.lse + i * kBlock, query.delta + i * kBlock, made);
  }
  if (task.gives_keys) {
    const LaneMatrix<T> query_pairs{query.query_pairs.at(i * Heads<T>::kBlockSteps, 0), padded};
    const LaneMatrix<T> grad_pairs{query.grad_pairs.at(i * Heads<T>::kBlockSteps, 0), padded};
    const int64_t at = j * kBlock * padded;
    block_product(made.weights, grad_pairs, kBlock, padded, Heads<T>::kBlockSteps, sums.dv + at, padded, true, from_row);
    block_product(made.score_rows, query_pairs, kBlock, padded, Heads<T>::kBlockSteps, sums.dk + at, padded, true, from_row);
  }
  if (task.gives_queries) {
    const LaneMatrix<T> turned{key.turned_keys.at(0, j * Heads<T>::kBlockSteps), key.turned_keys.stride};
    block_product(turned, made.score_pairs, padded, kBlock, Heads<T>::kBlockSteps, sums.dq + i * padded * kBlock, kBlock, true,
                  i == j ? Causal::kStepsBeforeColumns : Causal::kNot);
  }
}

template <class T>
void write_queries(const AttentionCall& call, const Heads<T>& heads, const AttentionTask& task, int64_t member, const float* dq,
                   float* block) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(heads.width));
  for (int64_t i = task.query_begin; i < task.query_end; ++i) {
    const int64_t valid = heads.valid(i);
    transpose_lanes(LaneMatrix<float>{const_cast<float*>(dq) + i * heads.padded * kBlock, kBlock}, heads.padded, kBlock,
                    LaneMatrix<float>{block, heads.padded});
    turn_block(block, valid, heads.width, heads.padded, call.table, heads.positions(i), -1.0f);
    write_block(block, valid, heads.width, heads.padded, scale, heads.query(static_cast<T*>(call.dq), member, i), heads.query_stride());
  }
}

template <class T>
void write_keys(const AttentionCall& call, const Heads<T>& heads, const AttentionTask& task, const Sums& sums) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(heads.width));
  for (int64_t j = task.key_begin; j < task.key_end; ++j) {
    const int64_t valid = heads.valid(j);
    float* dk = sums.dk + j * kBlock * heads.padded;
    turn_block(dk, valid, heads.width, heads.padded, call.table, heads.positions(j), -1.0f);
    write_block(dk, valid, heads.width, heads.padded, scale, heads.key(static_cast<T*>(call.dk), j), heads.key_stride());
    write_block(sums.dv + j * kBlock * heads.padded, valid, heads.width, heads.padded, 1.0f, heads.key(static_cast<T*>(call.dv), j),
                heads.key_stride());
  }
}

template <class T>
void backward(const AttentionCall& call, const AttentionTask& task) {
  static thread_local BackwardScratch scratch;
  const Heads<T> heads(call, task);
  const Visibility visible(call, task.row);
  const int64_t numbers = heads.blocks * kBlock * heads.padded;
  const KeyFactors<T> key = prepare_keys(call, heads, task, scratch);
  const Sums sums{scratch.dq.get<float>(numbers), scratch.dk.get<float>(numbers), scratch.dv.get<float>(numbers)};
  float* mask = scratch.mask.get<float>(kBlock * kBlock);
  for (int64_t n = 0; n < numbers; ++n) sums.dk[n] = 0.0f, sums.dv[n] = 0.0f;
  for (int64_t member = 0; member < heads.group; ++member) {
    for (int64_t n = 0; n < numbers; ++n) sums.dq[n] = 0.0f;
    const QueryFactors<T> query = prepare_queries(call, heads, task, member, scratch);
    for (int64_t j = task.key_begin; j < task.key_end; ++j) {
      for (int64_t i = j > task.query_begin ? j : task.query_begin; i < task.query_end; ++i) {
        const Visibility::Answer answer = visible.of(i, j);
        if (answer == Visibility::kNothing) continue;
        if (answer == Visibility::kSome) visible.fill(i, j, mask);
        add_block(heads, task, key, query, i, j, answer == Visibility::kSome ? mask : nullptr, scratch, sums);
      }
    }
    if (task.gives_queries) write_queries(call, heads, task, member, sums.dq, scratch.block.get<float>(kBlock * heads.padded));
  }
  if (task.gives_keys) write_keys(call, heads, task, sums);
}

}  // namespace

void attention_backward(const AttentionCall& call, const AttentionTask& task) {
  if (call.bfloat16) {
    backward<Bfloat16>(call, task);
  } else {
    backward<float>(call, task);
  }
}

}  // namespace codellama::CODELLAMA_LEVEL
