// One pass of a whole Llama over new tokens: embedding, layers with keys and values in pages, logits where asked.
//
// Who calls: op_forward.cpp, which makes these structs of the arguments of entry points and has checked shapes and types.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "packed.h"
#include "parallel.h"

namespace codellama {

struct LayerWeights {
  const float* attention_norm = nullptr;  // [hidden]
  const float* ffn_norm = nullptr;
  WeightMatrix wq, wk, wv, wo;
  WeightMatrix gate, up, down;  // w1, w3, w2
  const float* q_bias = nullptr;  // null without biases
  const float* k_bias = nullptr;
  const float* v_bias = nullptr;
};

// Sizes and weights; points into memory of the caller.
struct LlamaModel {
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, inner = 0, vocabulary = 0;
  int64_t positions = 0;  // of the rotary table: the longest row
  Form form = Form::kFloat32;
  int64_t group = 0;
  float eps = 0.0f;
  float scale = 0.0f;              // of attention scores
  const float* cosines = nullptr;  // [positions][head_dim]
  const float* sines = nullptr;    // the first half negated
  const void* embedding = nullptr;  // [vocabulary][hidden]
  bool embedding_is_bfloat16 = false;
  std::vector<LayerWeights> layer;
  const float* final_norm = nullptr;
  WeightMatrix head;

  int64_t padded_head() const { return (head_dim + kLanes - 1) / kLanes * kLanes; }
  int64_t width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  int64_t qkv_width() const { return width() + 2 * kv_width(); }
};

// Pools of keys and values, see paged_attention.h.
struct KeyValuePools {
  void* keys = nullptr;
  void* values = nullptr;
  bool bfloat16 = false;
  int64_t pages = 0;
  int64_t page_size = 0;
};

// New tokens. Those of one row stand behind each other, at positions that rise by one.
struct ForwardRequest {
  int64_t tokens = 0;
  const int32_t* ids = nullptr;        // [tokens]
  const int32_t* positions = nullptr;  // [tokens]
  const int32_t* rows = nullptr;       // [tokens]
  int64_t wanted = 0;
  const int32_t* wanted_tokens = nullptr;  // [wanted], indices of tokens whose logits are asked for, rising
  const int32_t* page_table = nullptr;     // [table_rows][table_pages], numbers of pages of the pools; unused ones may be -1
  int64_t table_rows = 0, table_pages = 0;
  float* logits = nullptr;  // [wanted][vocabulary]
};

// Memory between the phases of a pass; grows and is used again. One pass at a time.
struct ForwardMemory {
  std::mutex mutex;
  Scratch states, normed, projected, mixed, picked, head_input, gate, up, mixtures;
  Scratch hidden_inputs, attention_inputs, inner_inputs, head_inputs;
};

// Throws std::invalid_argument, with `name` before what is wrong, unless every index lies in its range.
void check_request(const char* name, const LlamaModel& model, const KeyValuePools& pools, const ForwardRequest& request);

// Runs a checked request: writes keys and values of the new tokens into the pools and the logits.
void run_forward(const LlamaModel& model, const KeyValuePools& pools, const ForwardRequest& request, ForwardMemory& memory);

// A number that is another one, but for chance (2^-64), when any weight of a float32 model is; read by all threads.
uint64_t fingerprint(const LlamaModel& model);

}  // namespace codellama
