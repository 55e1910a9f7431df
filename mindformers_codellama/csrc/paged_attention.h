// Rotary attention over keys and values that lie in pages.
//
// A pool is [pages][layers][kv heads][page size * padded head] elements, float32 or bfloat16; the padded head H' is the head
// rounded up to 16, the page size a multiple of 16. Within one page of one layer and head:
//   keys    float32  [page size / 16][H'][16 keys]           bfloat16  [page size / 16][H' / 2][16 keys][2 dims]
//   values  float32  [page size][H']                         bfloat16  [page size / 2][H'][2 keys]
// so that 16 keys are scored at once, and products of pairs need no shuffling. A value written is never moved.
#pragma once

#include <cstdint>

#include "level.h"
#include "simd.h"

namespace codellama {

// Query rows (tokens times heads of a group) that one task takes at most.
constexpr int64_t kQueryRows = 48;

struct HeadShape {
  int64_t head_dim;
  int64_t padded;     // H'
  int64_t page_size;
  int64_t group;      // query heads of one kv head
  bool bfloat16;      // of the pools
  float scale;        // of the scores
  const float* cosines;  // [positions][head_dim]
  const float* sines;    // the first half negated
};

// Keys and values of one row and one kv head in one layer.
struct CacheHead {
  const int32_t* pages;  // of the row
  void* keys;            // of page 0 of the pool
  void* values;
  int64_t page_stride;   // elements between two pages of the pool
};

// The newest key and value of a row, before rotation; biases may be null.
struct NewToken {
  const float* key;
  const float* value;
  const float* key_bias;
  const float* value_bias;
  int64_t position;
};

// Part of a softmax: of every query row its largest score, the sum of exp(score - largest) and the values mixed by these.
struct Mixture {
  float* largest;  // [rows]
  float* total;    // [rows]
  float* mixed;    // [rows][H']
};

// Query rows [first_row, first_row + rows) of tokens that stand behind each other in one row; query row = token * group + head.
struct QueryBlock {
  const float* queries;  // of token 0 and the group's first head, before rotation; heads are head_dim apart
  const float* bias;     // [group][head_dim], or null
  int64_t token_stride;  // floats between two tokens
  int64_t first_position;  // of token 0
  int64_t first_row, rows;
};

struct PagedAttentionKernels {
  // Writes a token's key and value into its page.
  void (*store_token)(const HeadShape& shape, const CacheHead& cache, const NewToken& token);
  // Attends over pages [first_page, end_page) as far as each query may see; rows is at most kQueryRows.
  void (*attend)(const HeadShape& shape, const CacheHead& cache, const QueryBlock& block, int64_t first_page, int64_t end_page,
                 const Mixture& mixture);
  // Merges `parts` mixtures (part i of row r: arrays at i * kQueryRows + r) and writes token t, head g of the group to
  // output[t * token_stride + g * head_dim].
  void (*finish)(const HeadShape& shape, const QueryBlock& block, const Mixture& mixture, int64_t parts, float* output,
                 int64_t token_stride);
  // gate[i] = silu(gate[i]) * up[i]
  void (*gate)(float* gate, const float* up, int64_t count);
};

CODELLAMA_DECLARE(PagedAttentionKernels, paged_attention_kernels)

inline const PagedAttentionKernels& paged_attention() { return CODELLAMA_TABLE(paged_attention_kernels); }

}  // namespace codellama
