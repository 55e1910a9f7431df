// Causal attention over whole rows of tokens, forward and backward, in blocks: no (S, S) numbers in memory.
//
// Shape letters: B rows, S positions, N query heads, K key/value heads, G = N / K, H width of a head, P positions of the table.
#pragma once

#include <cstdint>

#include "level.h"

namespace codellama {

// Queries or keys of a block.
constexpr int64_t kAttentionBlock = 64;

// What both directions read and write; see op_attention_training.cpp for the shapes.
struct AttentionCall {
  bool bfloat16 = false;  // type of q, k, v, o and their gradients; products are made on it, sums and softmax in float32
  int64_t length = 0, heads = 0, kv_heads = 0, width = 0;
  int32_t pad_token = -1;
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const float* table = nullptr;  // [P][H]: cosines and then sines of a position
  const int32_t* positions = nullptr;
  const int32_t* segments = nullptr;
  const int32_t* tokens = nullptr;
  void* o = nullptr;     // forward writes o and lse, backward reads them
  float* lse = nullptr;  // [B][N][S] natural logarithm of the sum of exponentials; 0 where nothing is visible
  const void* d_o = nullptr;
  void* dq = nullptr;
  void* dk = nullptr;
  void* dv = nullptr;
};

// A share of the work: one row and key/value head with its G query heads, and ranges of blocks. What is written does not
// depend, to the bit, on how the blocks are divided: every number is added up by one task, in order of the blocks.
struct AttentionTask {
  int64_t row = 0, kv_head = 0;
  int64_t query_begin = 0, query_end = 0;  // blocks
  int64_t key_begin = 0, key_end = 0;      // blocks; backward only
  bool gives_queries = true;               // writes dq of its queries: key_begin must be 0, query_begin <= key_end
  bool gives_keys = true;                  // writes dk and dv of its keys: query_end must be the number of blocks
};

struct AttentionTrainingKernels {
  // o and lse of the task's queries, in this thread.
  void (*forward)(const AttentionCall& call, const AttentionTask& task);
  // dq of its queries, dk and dv of its keys.
  void (*backward)(const AttentionCall& call, const AttentionTask& task);
};

CODELLAMA_DECLARE(AttentionTrainingKernels, attention_training_kernels)

// Of the level in use.
inline const AttentionTrainingKernels& attention_training() { return CODELLAMA_TABLE(attention_training_kernels); }

}  // namespace codellama
