#include "forward_attention.h"

#include <algorithm>

namespace codellama {
namespace {

// A context is cut into spans of this many keys whose softmaxes are merged in the end. Always, so that what a token gets does not
// depend on threads, batch mates or on how many tokens are read with it.
constexpr int64_t kSpanKeys = 512;
// Up to this many tokens of a row, threads share the spans of a query block.
constexpr int64_t kSharedTokens = 16;

HeadShape head_shape(const LlamaModel& model, const KeyValuePools& pools) {
  return {model.head_dim, model.padded_head(), pools.page_size, model.heads / model.kv_heads,
          pools.bfloat16, model.scale, model.cosines, model.sines};
}

}  // namespace

ForwardAttention::ForwardAttention(const Chunk& chunk, const float* projected, float* mixed, Scratch& memory)
    : chunk_(chunk), model_(chunk.model), projected_(projected), mixed_(mixed), shape_(head_shape(chunk.model, chunk.pools)),
      next_task_(chunk.model.layers) {
  find_runs();
  const int64_t slots = find_tasks();
  shares_spans_ = slots > 0;
  mixtures_ = mixture_in(memory, slots);
}

void ForwardAttention::find_runs() {
  for (int64_t token = 0; token < chunk_.count; ++token) {
    const int64_t row = chunk_.request.rows[chunk_.first + token];
    if (runs_.empty() || runs_.back().row != row) runs_.push_back({row, token, 0, chunk_.request.positions[chunk_.first + token]});
    ++runs_.back().tokens;
  }
}

// The number of mixtures that tasks share.
int64_t ForwardAttention::find_tasks() {
  int64_t slots = 0;
  for (const Run& run : runs_) {
    for (int64_t kv_head = 0; kv_head < model_.kv_heads; ++kv_head) add_tasks(run, kv_head, &slots);
  }
  const auto cost = [](const Task& task) { return std::min(task.pages, task.spans * kSpanKeys) * task.rows; };
  std::sort(tasks_.begin(), tasks_.end(), [&](const Task& a, const Task& b) { return cost(a) > cost(b); });
  return slots;
}

void ForwardAttention::add_tasks(const Run& run, int64_t kv_head, int64_t* slots) {
  const int64_t query_rows = run.tokens * shape_.group;
  for (int64_t row = 0; row < query_rows; row += kQueryRows) {
    const int64_t rows = std::min(kQueryRows, query_rows - row);
    const int64_t keys = run.position + (row + rows - 1) / shape_.group + 1;
    const int64_t pages = (keys + shape_.page_size - 1) / shape_.page_size;
    const int64_t spans = (pages + span_pages() - 1) / span_pages();
    if (run.tokens > kSharedTokens || spans == 1) {
      tasks_.push_back({&run, kv_head, row, rows, pages, 0, spans, -1, 0});
      continue;
    }
    for (int64_t span = 0; span < spans; ++span) {
      tasks_.push_back({&run, kv_head, row, rows, pages, span, 1, (*slots)++, span == 0 ? spans : 0});
    }
  }
}

void ForwardAttention::run(int64_t layer, const Team& team) {
  team.run([&](int worker, int workers) { store_tokens(layer, worker, workers); });
  team.meet();
  team.run([&](int, int) { attend(layer); });
  team.meet();
  if (shares_spans_) {
    team.run([&](int worker, int workers) { merge(layer, worker, workers); });
    team.meet();
  }
}

void ForwardAttention::store_tokens(int64_t layer, int worker, int workers) const {
  const LayerWeights& weights = model_.layer[layer];
  const auto bias_of = [&](const float* bias, int64_t place) { return bias == nullptr ? nullptr : bias + place; };
  const Piece piece = piece_of(chunk_.count * model_.kv_heads, worker, workers);
  for (int64_t index = piece.begin; index < piece.end; ++index) {
    const int64_t token = index / model_.kv_heads, kv_head = index % model_.kv_heads, place = kv_head * model_.head_dim;
    const float* key = projected_ + token * model_.qkv_width() + model_.width() + place;
    paged_attention().store_token(shape_, cache_head(layer, chunk_.request.rows[chunk_.first + token], kv_head),
                                  {key, key + model_.kv_width(), bias_of(weights.k_bias, place), bias_of(weights.v_bias, place),
                                   chunk_.request.positions[chunk_.first + token]});
  }
}

// Takes tasks until none is left.
void ForwardAttention::attend(int64_t layer) {
  const int64_t all = static_cast<int64_t>(tasks_.size());
  for (int64_t i = next_task_[layer].fetch_add(1); i < all; i = next_task_[layer].fetch_add(1)) attend_task(layer, tasks_[i]);
}

void ForwardAttention::attend_task(int64_t layer, const Task& task) const {
  static thread_local Scratch own;
  const Mixture mixture = task.slot < 0 ? mixture_in(own, task.spans) : mixture_part(mixtures_, task.slot);
  const QueryBlock block = query_block(layer, task);
  const CacheHead cache = cache_head(layer, task.run->row, task.kv_head);
  for (int64_t i = 0; i < task.spans; ++i) {
    const int64_t begin = (task.first_span + i) * span_pages();
    paged_attention().attend(shape_, cache, block, begin, std::min(task.pages, begin + span_pages()), mixture_part(mixture, i));
  }
  if (task.slot < 0) finish(layer, task, mixture, task.spans);
}

void ForwardAttention::finish(int64_t layer, const Task& task, const Mixture& mixture, int64_t spans) const {
  float* output = mixed_ + task.run->token * model_.width() + task.kv_head * shape_.group * model_.head_dim;
  paged_attention().finish(shape_, query_block(layer, task), mixture, spans, output, model_.width());
}

// Brings together the spans that several tasks had.
void ForwardAttention::merge(int64_t layer, int worker, int workers) const {
  int64_t turn = 0;
  for (const Task& task : tasks_) {
    if (task.merged > 0 && turn++ % workers == worker) finish(layer, task, mixture_part(mixtures_, task.slot), task.merged);
  }
}

CacheHead ForwardAttention::cache_head(int64_t layer, int64_t row, int64_t kv_head) const {
  const KeyValuePools& pools = chunk_.pools;
  const int64_t size = shape_.page_size * shape_.padded;
  const int64_t place = (layer * model_.kv_heads + kv_head) * size * (pools.bfloat16 ? 2 : 4);
  return {chunk_.request.page_table + row * chunk_.request.table_pages, static_cast<unsigned char*>(pools.keys) + place,
          static_cast<unsigned char*>(pools.values) + place, model_.layers * model_.kv_heads * size};
}

QueryBlock ForwardAttention::query_block(int64_t layer, const Task& task) const {
  const float* bias = model_.layer[layer].q_bias;
  const int64_t place = task.kv_head * shape_.group * model_.head_dim;
  return {projected_ + task.run->token * model_.qkv_width() + place, bias == nullptr ? nullptr : bias + place, model_.qkv_width(),
          task.run->position, task.first_row, task.rows};
}

// Memory for the mixtures of `spans` spans of a block.
Mixture ForwardAttention::mixture_in(Scratch& scratch, int64_t spans) const {
  const int64_t rows = spans * kQueryRows;
  float* largest = scratch.get<float>(rows * (2 + shape_.padded));
  return {largest, largest + rows, largest + 2 * rows};
}

Mixture ForwardAttention::mixture_part(const Mixture& mixture, int64_t index) const {
  const int64_t row = index * kQueryRows;
  return {mixture.largest + row, mixture.total + row, mixture.mixed + row * shape_.padded};
}

int64_t ForwardAttention::span_pages() const { return std::max<int64_t>(1, kSpanKeys / shape_.page_size); }

}  // namespace codellama
