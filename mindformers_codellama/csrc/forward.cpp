#include "forward.h"

#include <algorithm>
#include <cstring>

#include "forward_attention.h"
#include "forward_team.h"
#include "norm.h"
#include "paged_attention.h"

namespace codellama {
namespace {

// Tokens that go through the layers together; bounds the memory of a pass whatever the prompt.
constexpr int64_t kChunk = 512;

// The layers' work on one chunk; its functions with `worker` are phases that all workers of a parallel_for call together.
class Pass {
 public:
  // `wanted`: how many of the request's wanted tokens, from `wanted_first` on, are in the chunk; their states end in `head_input`.
  Pass(const Chunk& chunk, ForwardMemory& memory, int64_t wanted_first, int64_t wanted, float* head_input);

  void run_layers(const Team& team);

 private:
  void run_layer(int64_t layer, const Team& team);
  void project(const LayerWeights& weights, const Team& team) const;
  void feed(const LayerWeights& weights, const Activations& inputs, const Team& team) const;

  void embed(int worker, int workers) const;
  void norm_and_prepare(const float* x, const float* weight, const Activations& inputs, int worker, int workers) const;
  void pick(int worker, int workers) const;
  void feed_tiles(const LayerWeights& weights, const Activations& inputs, int worker, int workers) const;

  const Chunk chunk_;
  const LlamaModel& model_;
  const int64_t wanted_first_, wanted_;
  float *states_, *normed_, *projected_, *mixed_, *picked_, *head_input_, *gate_, *up_;
  Activations hidden_inputs_, attention_inputs_, inner_inputs_;
  ForwardAttention attention_;
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

Pass::Pass(const Chunk& chunk, ForwardMemory& memory, int64_t wanted_first, int64_t wanted, float* head_input)
    : chunk_(chunk),
      model_(chunk.model),
      wanted_first_(wanted_first),
      wanted_(wanted),
      states_(memory.states.get<float>(chunk.count * model_.hidden)),
      normed_(memory.normed.get<float>(chunk.count * model_.hidden)),
      projected_(memory.projected.get<float>(chunk.count * model_.qkv_width())),
      mixed_(memory.mixed.get<float>(chunk.count * model_.width())),
      picked_(memory.picked.get<float>(wanted * model_.width())),
      head_input_(head_input),
      gate_(memory.gate.get<float>(chunk.count * model_.inner)),
      up_(memory.up.get<float>(chunk.count * model_.inner)),
      hidden_inputs_(lay_out(model_.form, model_.group, normed_, model_.hidden, chunk.count, model_.hidden, memory.hidden_inputs)),
      attention_inputs_(lay_out(model_.form, model_.group, mixed_, model_.width(), chunk.count, model_.width(), memory.attention_inputs)),
      inner_inputs_(lay_out(model_.form, model_.group, gate_, model_.inner, chunk.count, model_.inner, memory.inner_inputs)),
      attention_(chunk, projected_, mixed_, memory.mixtures) {}

void Pass::run_layers(const Team& team) {
  team.run([&](int worker, int workers) { embed(worker, workers); });
  for (int64_t layer = 0; layer < model_.layers; ++layer) run_layer(layer, team);
}

void Pass::run_layer(int64_t layer, const Team& team) {
  const LayerWeights& weights = model_.layer[layer];
  team.run([&](int worker, int workers) { norm_and_prepare(states_, weights.attention_norm, hidden_inputs_, worker, workers); });
  team.meet();
  project(weights, team);
  team.meet();
  attention_.run(layer, team);
  // Of the last layer only the wanted tokens go on.
  const bool is_last = layer + 1 == model_.layers;
  const int64_t rows = is_last ? wanted_ : chunk_.count;
  float* x = is_last ? head_input_ : states_;
  const Activations attended = with_input(attention_inputs_, is_last ? picked_ : mixed_, rows);
  if (is_last) {
    team.run([&](int worker, int workers) { pick(worker, workers); });
    team.meet();
  }
  team.run([&](int worker, int workers) { prepare_piece(attended, worker, workers); });
  team.meet();
  team.multiply(attended, weights.wo, x, model_.hidden, true);
  team.meet();
  const Activations normalised = with_input(hidden_inputs_, normed_, rows);
  team.run([&](int worker, int workers) { norm_and_prepare(x, weights.ffn_norm, normalised, worker, workers); });
  team.meet();
  feed(weights, normalised, team);
  team.meet();
  const Activations inner = with_input(inner_inputs_, gate_, rows);
  team.run([&](int worker, int workers) { prepare_piece(inner, worker, workers); });
  team.meet();
  team.multiply(inner, weights.down, x, model_.hidden, true);
  team.meet();
}

// Embedding rows of this worker's tokens; the same tokens are normalised by the same worker next.
void Pass::embed(int worker, int workers) const {
  const Piece tokens = piece_of(chunk_.count, worker, workers);
  for (int64_t token = tokens.begin; token < tokens.end; ++token) {
    const int64_t place = chunk_.request.ids[chunk_.first + token] * model_.hidden;
    float* x = states_ + token * model_.hidden;
    if (model_.embedding_is_bfloat16) {
      const auto* row = static_cast<const Bfloat16*>(model_.embedding) + place;
      for (int64_t i = 0; i < model_.hidden; ++i) x[i] = to_float(row[i]);
    } else {
      std::memcpy(x, static_cast<const float*>(model_.embedding) + place, model_.hidden * sizeof(float));
    }
  }
}

// normed_ = norm of x, and prepared, for this worker's tokens.
void Pass::norm_and_prepare(const float* x, const float* weight, const Activations& inputs, int worker, int workers) const {
  const Piece tokens = piece_of(inputs.rows, worker, workers);
  const int64_t rows = tokens.end - tokens.begin, place = tokens.begin * model_.hidden;
  norm().rms_norm(x + place, weight, normed_ + place, rows, model_.hidden, model_.eps);
  prepare_piece(rows_of(inputs, tokens.begin, rows), 0, 1);
}

void Pass::project(const LayerWeights& weights, const Team& team) const {
  const int64_t stride = model_.qkv_width();
  team.multiply(hidden_inputs_, weights.wq, projected_, stride, false);
  team.multiply(hidden_inputs_, weights.wk, projected_ + model_.width(), stride, false);
  team.multiply(hidden_inputs_, weights.wv, projected_ + model_.width() + model_.kv_width(), stride, false);
}

// Attention outputs and states of the wanted tokens.
void Pass::pick(int worker, int workers) const {
  const Piece piece = piece_of(wanted_, worker, workers);
  for (int64_t i = piece.begin; i < piece.end; ++i) {
    const int64_t token = chunk_.request.wanted_tokens[wanted_first_ + i] - chunk_.first;
    std::memcpy(picked_ + i * model_.width(), mixed_ + token * model_.width(), model_.width() * sizeof(float));
    std::memcpy(head_input_ + i * model_.hidden, states_ + token * model_.hidden, model_.hidden * sizeof(float));
  }
}

// gate_ = silu(gate_) * up_ of the inputs.
void Pass::feed(const LayerWeights& weights, const Activations& inputs, const Team& team) const {
  if (team.is_inside()) {
    team.run([&](int worker, int workers) { feed_tiles(weights, inputs, worker, workers); });
    return;
  }
  team.multiply(inputs, weights.gate, gate_, model_.inner, false);
  team.multiply(inputs, weights.up, up_, model_.inner, false);
  team.run([&](int worker, int workers) {
    const Piece piece = piece_of(inputs.rows * model_.inner, worker, workers, kLanes);
    paged_attention().gate(gate_ + piece.begin, up_ + piece.begin, piece.end - piece.begin);
  });
}

// The channels of one worker: products and gate without meeting in between.
void Pass::feed_tiles(const LayerWeights& weights, const Activations& inputs, int worker, int workers) const {
  if (inputs.rows == 0) return;
  const Piece tiles = piece_of(tiles_of(model_.inner), worker, workers);
  if (tiles.begin == tiles.end) return;
  const auto multiply_tiles = packed().multiply[static_cast<int>(model_.form)];
  multiply_tiles({inputs, weights.gate, gate_, model_.inner, false, tiles.begin, tiles.end, 0, inputs.rows});
  multiply_tiles({inputs, weights.up, up_, model_.inner, false, tiles.begin, tiles.end, 0, inputs.rows});
  const int64_t begin = tiles.begin * kLanes, end = std::min(tiles.end * kLanes, model_.inner);
  for (int64_t row = 0; row < inputs.rows; ++row) {
    const int64_t place = row * model_.inner + begin;
    paged_attention().gate(gate_ + place, up_ + place, end - begin);
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
    Pass pass({model, pools, request, first, count}, memory, done, end - done, head_input + done * model.hidden);
    with_team(model, count, [&](const Team& team) { pass.run_layers(team); });
    done = end;
  }
  run_head(model, request, head_input, memory);
}

}  // namespace codellama
