// Attention of the tokens of one chunk: who looks at which keys, cut into tasks that threads take one after the other.
#pragma once

#include <atomic>
#include <vector>

#include "forward.h"
#include "forward_team.h"
#include "paged_attention.h"

namespace codellama {

// Tokens of a request that go through the layers together.
struct Chunk {
  const LlamaModel& model;
  const KeyValuePools& pools;
  const ForwardRequest& request;
  int64_t first, count;  // of the request's tokens
};

class ForwardAttention {
 public:
  // Reads `projected`, [count][qkv width], and writes `mixed`, [count][width]; takes memory for mixtures of spans.
  ForwardAttention(const Chunk& chunk, const float* projected, float* mixed, Scratch& memory);
  ForwardAttention(const ForwardAttention&) = delete;
  ForwardAttention& operator=(const ForwardAttention&) = delete;

  // From the projected queries, keys and values of a layer to `mixed`; each layer once.
  void run(int64_t layer, const Team& team);

 private:
  // Tokens of one row in the chunk.
  struct Run {
    int64_t row, token, tokens, position;  // `token`: the first, in the chunk
  };

  // One query block over some spans of its context.
  struct Task {
    const Run* run;
    int64_t kv_head;
    int64_t first_row, rows;  // query rows
    int64_t pages;            // of the context
    int64_t first_span, spans;
    int64_t slot;    // of the first span's mixture in shared memory; -1 when the task has all spans
    int64_t merged;  // of a block's first task: spans to merge when others have some of them; else 0
  };

  void find_runs();
  int64_t find_tasks();
  void add_tasks(const Run& run, int64_t kv_head, int64_t* slots);

  // Phases, which all workers of a parallel_for call together.
  void store_tokens(int64_t layer, int worker, int workers) const;
  void attend(int64_t layer);
  void merge(int64_t layer, int worker, int workers) const;

  void attend_task(int64_t layer, const Task& task) const;
  void finish(int64_t layer, const Task& task, const Mixture& mixture, int64_t spans) const;
  CacheHead cache_head(int64_t layer, int64_t row, int64_t kv_head) const;
  QueryBlock query_block(int64_t layer, const Task& task) const;
  Mixture mixture_in(Scratch& scratch, int64_t spans) const;
  Mixture mixture_part(const Mixture& mixture, int64_t index) const;
  int64_t span_pages() const;

  const Chunk chunk_;
  const LlamaModel& model_;
  const float* const projected_;
  float* const mixed_;
  const HeadShape shape_;
  std::vector<Run> runs_;
  std::vector<Task> tasks_;  // the longest first
  std::vector<std::atomic<int64_t>> next_task_;  // of each layer
  Mixture mixtures_{};
  bool shares_spans_ = false;
};

}  // namespace codellama
