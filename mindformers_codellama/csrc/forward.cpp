#include "forward.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "gemm.h"
#include "norm.h"
#include "paged_attention.h"

namespace codellama {
namespace {

// Tokens that go through the layers together; bounds the memory of a pass whatever the prompt.
constexpr int64_t kChunk = 512;
// A context is cut into spans of this many keys whose softmaxes are merged in the end. Always, so that what a token gets does not
// depend on threads, batch mates or on how many tokens are read with it.
constexpr int64_t kSpanKeys = 512;
// Up to this many tokens of a row, threads share the spans of a query block.
constexpr int64_t kSharedTokens = 16;

// From this many tokens on, products with float32 weights go through gemm(), which packs its factors first; that pays when many
// rows use them.
constexpr int64_t kGemmTokens = 32;

// How phases are run: by one worker of a parallel_for that spans the whole chunk, with barriers between the phases; or, because
// gemm() brings its own threads, each phase in a parallel_for of its own.
class Team {
 public:
  Team() = default;
  Team(int worker, int workers) : worker_(worker), workers_(workers), inside_(true) {}

  template <class Phase>
  void run(const Phase& phase) const {
    if (inside_) {
      phase(worker_, workers_);
    } else {
      parallel_for(phase);
    }
  }

  // Between a phase that writes and one in which other workers read it.
  void meet() const {
    if (inside_) wait_for_workers();
  }

  // y (+)= inputs times the matrix, transposed.
  void multiply(const Activations& inputs, const WeightMatrix& matrix, float* y, int64_t y_stride, bool add) const {
    if (inside_) {
      multiply_piece(inputs, matrix, y, y_stride, add, worker_, workers_);
      return;
    }
    Product product;
    product.m = inputs.rows;
    product.n = matrix.rows;
    product.terms.resize(1);
    Term& term = product.terms[0];
    term.left.data = inputs.x;
    term.left.stride = inputs.x_stride;
    term.right.data = matrix.values;
    term.right.stride = matrix.columns;
    term.right.transposed = true;
    term.k = matrix.columns;
    product.result = y;
    product.stride = y_stride;
    product.accumulate = add;
    gemm(product);
  }

  bool is_inside() const { return inside_; }

 private:
  int worker_ = 0, workers_ = 1;
  bool inside_ = false;
};

// Runs work(team) with the kind of team that suits products of `rows` rows.
template <class Work>
void with_team(const LlamaModel& model, int64_t rows, const Work& work) {
  if (model.form == Form::kFloat32 && rows >= kGemmTokens) {
    work(Team());
  } else {
    parallel_for([&](int worker, int workers) { work(Team(worker, workers)); });
  }
}

// Tokens of one row in a chunk.
struct Run {
  int64_t row, token, tokens, position;  // `token`: the first, in the chunk
};

// Attention of one query block over some spans of its context.
struct AttentionTask {
  const Run* run;
  int64_t kv_head;
  int64_t first_row, rows;  // query rows
  int64_t pages;            // of the context
  int64_t first_span, spans;
  int64_t slot;    // of the first span's mixture in shared memory; -1 when the task has all spans
  int64_t merged;  // of a block's first task: spans to merge when others have some of them; else 0
};

// The layers' work on one chunk; its functions with `worker` are phases that all workers of a parallel_for call together.
struct Pass {
  const LlamaModel& model;
  const KeyValuePools& pools;
  const ForwardRequest& request;
  ForwardMemory& memory;
  const int64_t first, count;  // tokens of the chunk
  const int64_t wanted_first, wanted;  // of the request's wanted tokens, those in the chunk
  std::vector<Run> runs{};
  std::vector<AttentionTask> tasks{};
  std::vector<std::atomic<int64_t>> next_task;
  bool shares_spans = false;
  HeadShape shape{};
  float *states, *normed, *projected, *mixed, *picked, *head_input, *gate, *up;
  Activations hidden_inputs, attention_inputs, inner_inputs;
  Mixture mixtures{};

  Pass(const LlamaModel& model, const KeyValuePools& pools, const ForwardRequest& request, ForwardMemory& memory, int64_t first,
       int64_t count, int64_t wanted_first, int64_t wanted, float* head_input);

  void find_runs();
  void add_tasks(const Run& run, int64_t kv_head, int64_t* slots);
  void run_layers(const Team& team);
  void run_attention(int64_t layer, const Team& team);
  void run_layer(int64_t layer, const Team& team);

  void embed(int worker, int workers) const;
  void norm_and_prepare(const float* x, const float* weight, const Activations& inputs, int worker, int workers) const;
  void project(const LayerWeights& weights, const Team& team) const;
  void store_tokens(int64_t layer, int worker, int workers) const;
  void attend(int64_t layer);
  void attend_task(int64_t layer, const AttentionTask& task) const;
  void finish(int64_t layer, const AttentionTask& task, const Mixture& mixture, int64_t spans) const;
  void merge(int64_t layer, int worker, int workers) const;
  void pick(int worker, int workers) const;
  void feed(const LayerWeights& weights, const Activations& inputs, const Team& team) const;
  void feed_tiles(const LayerWeights& weights, const Activations& inputs, int worker, int workers) const;

  CacheHead cache_head(int64_t layer, int64_t row, int64_t kv_head) const;
  QueryBlock query_block(int64_t layer, const AttentionTask& task) const;
  Mixture mixture_in(Scratch& scratch, int64_t spans) const;
  Mixture mixture_part(const Mixture& mixture, int64_t index) const;
  int64_t span_pages() const { return std::max<int64_t>(1, kSpanKeys / shape.page_size); }
};

Activations rows_of(Activations activations, int64_t first, int64_t rows) {
  activations.x += first * activations.x_stride;
  activations.rows = rows;
  if (activations.halves != nullptr) activations.halves += first * activations.stride;
  if (activations.bytes != nullptr) {
    const int64_t groups = padded_columns(activations.form, activations.columns, activations.group) / activations.group;
    activations.bytes += first * activations.stride;
    activations.scales += first * groups;
    activations.sums += first * groups;
  }
  return activations;
}

// The first `rows` rows, of which x lies elsewhere now.
Activations with_input(Activations activations, const float* x, int64_t rows) {
  activations.x = x;
  activations.rows = rows;
  return activations;
}

Pass::Pass(const LlamaModel& model, const KeyValuePools& pools, const ForwardRequest& request, ForwardMemory& memory, int64_t first,
           int64_t count, int64_t wanted_first, int64_t wanted, float* head_input)
    : model(model), pools(pools), request(request), memory(memory), first(first), count(count), wanted_first(wanted_first), wanted(wanted),
      next_task(model.layers), head_input(head_input) {
  const int64_t hidden = model.hidden, width = model.width();
  states = memory.states.get<float>(count * hidden);
  normed = memory.normed.get<float>(count * hidden);
  projected = memory.projected.get<float>(count * model.qkv_width());
  mixed = memory.mixed.get<float>(count * width);
  picked = memory.picked.get<float>(wanted * width);
  gate = memory.gate.get<float>(count * model.inner);
  up = memory.up.get<float>(count * model.inner);
  hidden_inputs = lay_out(model.form, model.group, normed, hidden, count, hidden, memory.hidden_inputs);
  attention_inputs = lay_out(model.form, model.group, mixed, width, count, width, memory.attention_inputs);
  inner_inputs = lay_out(model.form, model.group, gate, model.inner, count, model.inner, memory.inner_inputs);
  shape = {model.head_dim, model.padded_head(), pools.page_size, model.heads / model.kv_heads,
           pools.bfloat16, model.scale, model.cosines, model.sines};
  find_runs();
}

// Runs of the chunk, the tasks of its attention (the longest first) and memory for mixtures of spans.
void Pass::find_runs() {
  for (int64_t token = 0; token < count; ++token) {
    const int64_t row = request.rows[first + token];
    if (runs.empty() || runs.back().row != row) runs.push_back({row, token, 0, request.positions[first + token]});
    ++runs.back().tokens;
  }
  int64_t slots = 0;
  for (const Run& run : runs) {
    for (int64_t kv_head = 0; kv_head < model.kv_heads; ++kv_head) add_tasks(run, kv_head, &slots);
  }
  shares_spans = slots > 0;
  const auto cost = [](const AttentionTask& task) { return std::min(task.pages, task.spans * kSpanKeys) * task.rows; };
  std::sort(tasks.begin(), tasks.end(), [&](const AttentionTask& a, const AttentionTask& b) { return cost(a) > cost(b); });
  mixtures = mixture_in(memory.mixtures, slots);
}

void Pass::add_tasks(const Run& run, int64_t kv_head, int64_t* slots) {
  const int64_t query_rows = run.tokens * shape.group;
  for (int64_t row = 0; row < query_rows; row += kQueryRows) {
    const int64_t rows = std::min(kQueryRows, query_rows - row);
    const int64_t keys = run.position + (row + rows - 1) / shape.group + 1;
    const int64_t pages = (keys + shape.page_size - 1) / shape.page_size;
    const int64_t spans = (pages + span_pages() - 1) / span_pages();
    if (run.tokens > kSharedTokens || spans == 1) {
      tasks.push_back({&run, kv_head, row, rows, pages, 0, spans, -1, 0});
      continue;
    }
    for (int64_t span = 0; span < spans; ++span) {
      tasks.push_back({&run, kv_head, row, rows, pages, span, 1, (*slots)++, span == 0 ? spans : 0});
    }
  }
}

CacheHead Pass::cache_head(int64_t layer, int64_t row, int64_t kv_head) const {
  const int64_t size = shape.page_size * shape.padded;
  const int64_t place = (layer * model.kv_heads + kv_head) * size * (pools.bfloat16 ? 2 : 4);
  return {request.page_table + row * request.table_pages, static_cast<unsigned char*>(pools.keys) + place,
          static_cast<unsigned char*>(pools.values) + place, model.layers * model.kv_heads * size};
}

QueryBlock Pass::query_block(int64_t layer, const AttentionTask& task) const {
  const float* bias = model.layer[layer].q_bias;
  const int64_t place = task.kv_head * shape.group * model.head_dim;
  return {projected + task.run->token * model.qkv_width() + place, bias == nullptr ? nullptr : bias + place, model.qkv_width(),
          task.run->position, task.first_row, task.rows};
}

// Memory for the mixtures of `spans` spans of a block.
Mixture Pass::mixture_in(Scratch& scratch, int64_t spans) const {
  const int64_t rows = spans * kQueryRows;
  float* largest = scratch.get<float>(rows * (2 + shape.padded));
  return {largest, largest + rows, largest + 2 * rows};
}

Mixture Pass::mixture_part(const Mixture& mixture, int64_t index) const {
  const int64_t row = index * kQueryRows;
  return {mixture.largest + row, mixture.total + row, mixture.mixed + row * shape.padded};
}

void Pass::run_layers(const Team& team) {
  team.run([&](int worker, int workers) { embed(worker, workers); });
  for (int64_t layer = 0; layer < model.layers; ++layer) run_layer(layer, team);
}

// From the projected queries, keys and values to `mixed`.
void Pass::run_attention(int64_t layer, const Team& team) {
  team.run([&](int worker, int workers) { store_tokens(layer, worker, workers); });
  team.meet();
  team.run([&](int, int) { attend(layer); });
  team.meet();
  if (shares_spans) {
    team.run([&](int worker, int workers) { merge(layer, worker, workers); });
    team.meet();
  }
}

void Pass::run_layer(int64_t layer, const Team& team) {
  const LayerWeights& weights = model.layer[layer];
  team.run([&](int worker, int workers) { norm_and_prepare(states, weights.attention_norm, hidden_inputs, worker, workers); });
  team.meet();
  project(weights, team);
  team.meet();
  run_attention(layer, team);
  // Of the last layer only the wanted tokens go on.
  const bool is_last = layer + 1 == model.layers;
  const int64_t rows = is_last ? wanted : count;
  float* x = is_last ? head_input : states;
  const Activations attended = with_input(attention_inputs, is_last ? picked : mixed, rows);
  if (is_last) {
    team.run([&](int worker, int workers) { pick(worker, workers); });
    team.meet();
  }
  team.run([&](int worker, int workers) { prepare_piece(attended, worker, workers); });
  team.meet();
  team.multiply(attended, weights.wo, x, model.hidden, true);
  team.meet();
  const Activations normalised = with_input(hidden_inputs, normed, rows);
  team.run([&](int worker, int workers) { norm_and_prepare(x, weights.ffn_norm, normalised, worker, workers); });
  team.meet();
  feed(weights, normalised, team);
  team.meet();
  const Activations inner = with_input(inner_inputs, gate, rows);
  team.run([&](int worker, int workers) { prepare_piece(inner, worker, workers); });
  team.meet();
  team.multiply(inner, weights.down, x, model.hidden, true);
  team.meet();
}

// Embedding rows of this worker's tokens; the same tokens are normalised by the same worker next.
void Pass::embed(int worker, int workers) const {
  const Piece tokens = piece_of(count, worker, workers);
  for (int64_t token = tokens.begin; token < tokens.end; ++token) {
    const int64_t place = request.ids[first + token] * model.hidden;
    float* x = states + token * model.hidden;
    if (model.embedding_is_bfloat16) {
      const auto* row = static_cast<const Bfloat16*>(model.embedding) + place;
      for (int64_t i = 0; i < model.hidden; ++i) x[i] = to_float(row[i]);
    } else {
      std::memcpy(x, static_cast<const float*>(model.embedding) + place, model.hidden * sizeof(float));
    }
  }
}

// normed = norm of x, and prepared, for this worker's tokens.
void Pass::norm_and_prepare(const float* x, const float* weight, const Activations& inputs, int worker, int workers) const {
  const Piece tokens = piece_of(inputs.rows, worker, workers);
  const int64_t rows = tokens.end - tokens.begin, place = tokens.begin * model.hidden;
  norm().rms_norm(x + place, weight, normed + place, rows, model.hidden, model.eps);
  prepare_piece(rows_of(inputs, tokens.begin, rows), 0, 1);
}

void Pass::project(const LayerWeights& weights, const Team& team) const {
  const int64_t stride = model.qkv_width();
  team.multiply(hidden_inputs, weights.wq, projected, stride, false);
  team.multiply(hidden_inputs, weights.wk, projected + model.width(), stride, false);
  team.multiply(hidden_inputs, weights.wv, projected + model.width() + model.kv_width(), stride, false);
}

void Pass::store_tokens(int64_t layer, int worker, int workers) const {
  const LayerWeights& weights = model.layer[layer];
  const auto bias_of = [&](const float* bias, int64_t place) { return bias == nullptr ? nullptr : bias + place; };
  const Piece piece = piece_of(count * model.kv_heads, worker, workers);
  for (int64_t index = piece.begin; index < piece.end; ++index) {
    const int64_t token = index / model.kv_heads, kv_head = index % model.kv_heads, place = kv_head * model.head_dim;
    const float* key = projected + token * model.qkv_width() + model.width() + place;
    paged_attention().store_token(shape, cache_head(layer, request.rows[first + token], kv_head),
                                  {key, key + model.kv_width(), bias_of(weights.k_bias, place), bias_of(weights.v_bias, place),
                                   request.positions[first + token]});
  }
}

// Takes tasks until none is left.
void Pass::attend(int64_t layer) {
  const int64_t all = static_cast<int64_t>(tasks.size());
  for (int64_t i = next_task[layer].fetch_add(1); i < all; i = next_task[layer].fetch_add(1)) attend_task(layer, tasks[i]);
}

void Pass::attend_task(int64_t layer, const AttentionTask& task) const {
  static thread_local Scratch own;
  const Mixture mixture = task.slot < 0 ? mixture_in(own, task.spans) : mixture_part(mixtures, task.slot);
  const QueryBlock block = query_block(layer, task);
  const CacheHead cache = cache_head(layer, task.run->row, task.kv_head);
  for (int64_t i = 0; i < task.spans; ++i) {
    const int64_t begin = (task.first_span + i) * span_pages();
    paged_attention().attend(shape, cache, block, begin, std::min(task.pages, begin + span_pages()), mixture_part(mixture, i));
  }
  if (task.slot < 0) finish(layer, task, mixture, task.spans);
}

void Pass::finish(int64_t layer, const AttentionTask& task, const Mixture& mixture, int64_t spans) const {
  float* output = mixed + task.run->token * model.width() + task.kv_head * shape.group * model.head_dim;
  paged_attention().finish(shape, query_block(layer, task), mixture, spans, output, model.width());
}

// Brings together the spans that several tasks had.
void Pass::merge(int64_t layer, int worker, int workers) const {
  int64_t turn = 0;
  for (const AttentionTask& task : tasks) {
    if (task.merged > 0 && turn++ % workers == worker) finish(layer, task, mixture_part(mixtures, task.slot), task.merged);
  }
}

// Attention outputs and states of the wanted tokens.
void Pass::pick(int worker, int workers) const {
  const Piece piece = piece_of(wanted, worker, workers);
  for (int64_t i = piece.begin; i < piece.end; ++i) {
    const int64_t token = request.wanted_tokens[wanted_first + i] - first;
    std::memcpy(picked + i * model.width(), mixed + token * model.width(), model.width() * sizeof(float));
    std::memcpy(head_input + i * model.hidden, states + token * model.hidden, model.hidden * sizeof(float));
  }
}

// gate = silu(gate) * up of the inputs.
void Pass::feed(const LayerWeights& weights, const Activations& inputs, const Team& team) const {
  if (team.is_inside()) {
    team.run([&](int worker, int workers) { feed_tiles(weights, inputs, worker, workers); });
    return;
  }
  team.multiply(inputs, weights.gate, gate, model.inner, false);
  team.multiply(inputs, weights.up, up, model.inner, false);
  team.run([&](int worker, int workers) {
    const Piece piece = piece_of(inputs.rows * model.inner, worker, workers, kLanes);
    paged_attention().gate(gate + piece.begin, up + piece.begin, piece.end - piece.begin);
  });
}

// The channels of one worker: products and gate without meeting in between.
void Pass::feed_tiles(const LayerWeights& weights, const Activations& inputs, int worker, int workers) const {
  if (inputs.rows == 0) return;
  const Piece tiles = piece_of(tiles_of(model.inner), worker, workers);
  if (tiles.begin == tiles.end) return;
  const auto multiply_tiles = packed().multiply[static_cast<int>(model.form)];
  multiply_tiles({inputs, weights.gate, gate, model.inner, false, tiles.begin, tiles.end, 0, inputs.rows});
  multiply_tiles({inputs, weights.up, up, model.inner, false, tiles.begin, tiles.end, 0, inputs.rows});
  const int64_t begin = tiles.begin * kLanes, end = std::min(tiles.end * kLanes, model.inner);
  for (int64_t row = 0; row < inputs.rows; ++row) {
    const int64_t place = row * model.inner + begin;
    paged_attention().gate(gate + place, up + place, end - begin);
  }
}

// Final norm and head of the wanted tokens.
void run_head(const LlamaModel& model, const ForwardRequest& request, const float* x, ForwardMemory& memory) {
  for (int64_t first = 0; first < request.wanted; first += kChunk) {
    const int64_t rows = std::min(kChunk, request.wanted - first);
    float* normed = memory.normed.get<float>(rows * model.hidden);
    const Activations inputs = lay_out(model.form, model.group, normed, model.hidden, rows, model.hidden, memory.head_inputs);
    with_team(model, rows, [&](const Team& team) {
      team.run([&](int worker, int workers) {
        const Piece piece = piece_of(rows, worker, workers);
        norm().rms_norm(x + (first + piece.begin) * model.hidden, model.final_norm, normed + piece.begin * model.hidden,
                        piece.end - piece.begin, model.hidden, model.eps);
        prepare_piece(rows_of(inputs, piece.begin, piece.end - piece.begin), 0, 1);
      });
      team.meet();
      team.multiply(inputs, model.head, request.logits + first * model.vocabulary, model.vocabulary, false);
    });
  }
}

}  // namespace

void run_forward(const LlamaModel& model, const KeyValuePools& pools, const ForwardRequest& request, ForwardMemory& memory) {
  const std::lock_guard<std::mutex> lock(memory.mutex);
  float* head_input = memory.head_input.get<float>(request.wanted * model.hidden);
  int64_t done = 0;
  for (int64_t first = 0; first < request.tokens; first += kChunk) {
    const int64_t count = std::min(kChunk, request.tokens - first);
    int64_t end = done;
    while (end < request.wanted && request.wanted_tokens[end] < first + count) ++end;
    Pass pass(model, pools, request, memory, first, count, done, end - done, head_input + done * model.hidden);
    with_team(model, count, [&](const Team& team) { pass.run_layers(team); });
    done = end;
  }
  run_head(model, request, head_input, memory);
}

}  // namespace codellama
