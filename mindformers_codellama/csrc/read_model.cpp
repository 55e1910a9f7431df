#include "read_model.h"

#include <string>
#include <utility>
#include <vector>

namespace codellama {
namespace {

// Reads the inputs that describe a model one after the other.
class Reader {
 public:
  Reader(const Arguments& in, int first) : in_(in), next_(first) {}

  // Tensor of a type (bfloat16 or its bits when that is asked for) and number of elements.
  const void* take(const char* dtype, int64_t elements, const char* what) {
    const int index = next_++;
    in_.require(index < in_.count() - 1, std::string("ends before ") + what);
    const bool fits = in_.is(index, dtype) || (std::string(dtype) == "bfloat16" && in_.is(index, "uint16"));
    in_.require(fits, std::string(what) + " must be " + dtype);
    in_.require(in_.elements(index) == elements,
                std::string(what) + " has " + std::to_string(in_.elements(index)) + " elements, must have " + std::to_string(elements));
    return in_.raw(index);
  }

  const float* floats(int64_t elements, const char* what) { return static_cast<const float*>(take("float32", elements, what)); }

  const Arguments& in() const { return in_; }
  int next() const { return next_; }

 private:
  const Arguments& in_;
  int next_;
};

// Rows of a fused matrix's parts and where one of them begins, in bytes of values and in scales, within a stack over layers.
class Stack {
 public:
  Stack(Form form, int64_t group, int64_t columns, std::vector<int64_t> parts)
      : form_(form), group_(group), columns_(columns), parts_(std::move(parts)) {
    for (int64_t rows : parts_) {
      bytes_ += value_bytes(form_, rows, columns_, group_);
      scales_ += scale_count(form_, rows, columns_, group_);
    }
  }

  void read_values(Reader& reader, int64_t layers, const char* what) {
    const char* dtype = form_ == Form::kFloat32 ? "float32" : form_ == Form::kBfloat16 ? "bfloat16" : "uint8";
    const int64_t element = form_ == Form::kFloat32 ? 4 : form_ == Form::kBfloat16 ? 2 : 1;
    values_ = static_cast<const unsigned char*>(reader.take(dtype, layers * bytes_ / element, what));
  }

  void read_scales(Reader& reader, int64_t layers, const char* what) {
    scale_values_ = static_cast<const Bfloat16*>(reader.take("bfloat16", layers * scales_, what));
  }

  WeightMatrix matrix(int64_t layer, size_t part) const {
    int64_t bytes = layer * bytes_, scales = layer * scales_;
    for (size_t i = 0; i < part; ++i) {
      bytes += value_bytes(form_, parts_[i], columns_, group_);
      scales += scale_count(form_, parts_[i], columns_, group_);
    }
    return {form_, values_ + bytes, scale_values_ == nullptr ? nullptr : scale_values_ + scales, parts_[part], columns_, group_};
  }

 private:
  Form form_;
  int64_t group_, columns_;
  std::vector<int64_t> parts_;
  int64_t bytes_ = 0, scales_ = 0;
  const unsigned char* values_ = nullptr;
  const Bfloat16* scale_values_ = nullptr;
};

void read_packed(Reader& reader, LlamaModel& model, bool has_biases) {
  const bool has_scales = model.form == Form::kInt8 || model.form == Form::kInt4;
  const float* norms = reader.floats((2 * model.layers + 1) * model.hidden, "norms");
  Stack qkv(model.form, model.group, model.hidden, {model.width(), model.kv_width(), model.kv_width()});
  Stack o(model.form, model.group, model.width(), {model.hidden});
  Stack gate_up(model.form, model.group, model.hidden, {model.inner, model.inner});
  Stack down(model.form, model.group, model.inner, {model.hidden});
  Stack head(model.form, model.group, model.hidden, {model.vocabulary});
  qkv.read_values(reader, model.layers, "qkv");
  o.read_values(reader, model.layers, "o");
  gate_up.read_values(reader, model.layers, "gate_up");
  down.read_values(reader, model.layers, "down");
  head.read_values(reader, 1, "head");
  if (has_scales) {
    qkv.read_scales(reader, model.layers, "qkv_scales");
    o.read_scales(reader, model.layers, "o_scales");
    gate_up.read_scales(reader, model.layers, "gate_up_scales");
    down.read_scales(reader, model.layers, "down_scales");
    head.read_scales(reader, 1, "head_scales");
  }
  const float* bias = has_biases ? reader.floats(model.layers * model.qkv_width(), "qkv_bias") : nullptr;
  for (int64_t layer = 0; layer < model.layers; ++layer) {
    LayerWeights& weights = model.layer[layer];
    weights.attention_norm = norms + 2 * layer * model.hidden;
    weights.ffn_norm = weights.attention_norm + model.hidden;
    weights.wq = qkv.matrix(layer, 0);
    weights.wk = qkv.matrix(layer, 1);
    weights.wv = qkv.matrix(layer, 2);
    weights.wo = o.matrix(layer, 0);
    weights.gate = gate_up.matrix(layer, 0);
    weights.up = gate_up.matrix(layer, 1);
    weights.down = down.matrix(layer, 0);
    if (bias == nullptr) continue;
    weights.q_bias = bias + layer * model.qkv_width();
    weights.k_bias = weights.q_bias + model.width();
    weights.v_bias = weights.k_bias + model.kv_width();
  }
  model.final_norm = norms + 2 * model.layers * model.hidden;
  model.head = head.matrix(0, 0);
}

void read_separate(Reader& reader, LlamaModel& model, bool has_biases) {
  const auto matrix = [&](int64_t rows, int64_t columns, const char* what) {
    return WeightMatrix{Form::kFloat32, reader.floats(rows * columns, what), nullptr, rows, columns, 0};
  };
  for (LayerWeights& weights : model.layer) {
    weights.attention_norm = reader.floats(model.hidden, "attention_norm");
    weights.ffn_norm = reader.floats(model.hidden, "ffn_norm");
    weights.wq = matrix(model.width(), model.hidden, "wq");
    weights.wk = matrix(model.kv_width(), model.hidden, "wk");
    weights.wv = matrix(model.kv_width(), model.hidden, "wv");
    weights.wo = matrix(model.hidden, model.width(), "wo");
    weights.gate = matrix(model.inner, model.hidden, "w1");
    weights.up = matrix(model.inner, model.hidden, "w3");
    weights.down = matrix(model.hidden, model.inner, "w2");
    if (!has_biases) continue;
    weights.q_bias = reader.floats(model.width(), "wq.bias");
    weights.k_bias = reader.floats(model.kv_width(), "wk.bias");
    weights.v_bias = reader.floats(model.kv_width(), "wv.bias");
  }
  model.final_norm = reader.floats(model.hidden, "norm_out");
  model.head = matrix(model.vocabulary, model.hidden, "head");
}

// Of a width: the bytes of 4096 layers of the largest matrix, three times that square, still fit into int64_t.
constexpr int64_t kLargestSize = int64_t{1} << 22;

// Sizes that cannot overflow when multiplied, and that fit each other.
void read_sizes(const Arguments& in, const int64_t* sizes, LlamaModel& model) {
  for (int i = 0; i < 7; ++i) {
    in.require(sizes[i] > 0 && sizes[i] <= kLargestSize, "size " + std::to_string(i) + " is " + std::to_string(sizes[i]));
  }
  in.require(sizes[2] * sizes[4] <= kLargestSize, "heads times head dim are " + std::to_string(sizes[2] * sizes[4]));
  model.layers = sizes[0];
  model.hidden = sizes[1];
  model.heads = sizes[2];
  model.kv_heads = sizes[3];
  model.head_dim = sizes[4];
  model.inner = sizes[5];
  model.vocabulary = sizes[6];
  in.require(model.layers <= 4096, "has more than 4096 layers");
  in.require(model.heads % model.kv_heads == 0, "heads are no multiple of kv heads");
  in.require(model.head_dim % 2 == 0, "the head dim is odd");
  in.require(sizes[7] >= 0 && sizes[7] <= 3, "form " + std::to_string(sizes[7]) + " is none of 0 to 3");
  model.form = static_cast<Form>(sizes[7]);
  const bool has_scales = model.form == Form::kInt8 || model.form == Form::kInt4;
  in.require(!has_scales || is_group(sizes[8]), "group " + std::to_string(sizes[8]) + " is neither 64 nor 128");
  model.group = has_scales ? sizes[8] : 0;
  const bool is_page_size = sizes[9] > 0 && sizes[9] % kLanes == 0 && sizes[9] <= 4096;
  in.require(is_page_size, "page size " + std::to_string(sizes[9]) + " is no multiple of 16 up to 4096");
  in.require(sizes[10] == 0 || model.form == Form::kFloat32, "separate parameters are float32");
}

}  // namespace

DescribedModel read_model(const Arguments& in, int first) {
  DescribedModel described;
  LlamaModel& model = described.model;
  Reader reader(in, first);
  const auto* sizes = static_cast<const int64_t*>(reader.take("int64", 12, "sizes"));
  read_sizes(in, sizes, model);
  described.page_size = sizes[9];
  const float* reals = reader.floats(2, "reals");
  model.eps = reals[0];
  model.scale = reals[1];
  in.require(in.dims(reader.next()) == 2, "cosines must have two dims");
  model.positions = in.size(reader.next(), 0);
  model.cosines = reader.floats(model.positions * model.head_dim, "cosines");
  model.sines = reader.floats(model.positions * model.head_dim, "sines");
  model.embedding_is_bfloat16 = !in.is(reader.next(), "float32");
  model.embedding = reader.take(model.embedding_is_bfloat16 ? "bfloat16" : "float32", model.vocabulary * model.hidden, "embedding");
  model.layer.resize(model.layers);
  if (sizes[10] != 0) {
    read_separate(reader, model, sizes[11] != 0);
  } else {
    read_packed(reader, model, sizes[11] != 0);
  }
  in.expect_count(reader.next() + 1);
  return described;
}

KeyValuePools read_pools(const Arguments& in, int first, const DescribedModel& described) {
  const LlamaModel& model = described.model;
  KeyValuePools pools;
  pools.bfloat16 = !in.is(first, "float32");
  for (int index : {first, first + 1}) {
    const bool fits = pools.bfloat16 ? in.is(index, "bfloat16") || in.is(index, "uint16") : in.is(index, "float32");
    in.require(fits, "keys and values must both be float32 or both bfloat16");
  }
  pools.page_size = described.page_size;
  pools.pages = in.size(first, 0);
  const int64_t wanted = pools.pages * model.layers * model.kv_heads * pools.page_size * model.padded_head();
  in.require(pools.pages < (int64_t{1} << 31), "there are too many pages");
  in.require(in.elements(first) == wanted && in.elements(first + 1) == wanted, "the pools have another size than their pages need");
  pools.keys = in.raw(first);
  pools.values = in.raw(first + 1);
  return pools;
}

}  // namespace codellama
