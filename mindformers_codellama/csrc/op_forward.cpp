// Entry points of the network: one pass in one call.
//
// Inputs that describe a model, in this order ("weights" below):
//   sizes      int64 [12]: layers, hidden, heads, kv heads, head dim, intermediate, vocabulary, form (0 float32, 1 bfloat16, 2 int8,
//              3 int4), group, page size, 1 when matrices are separate parameters, 1 when q, k, v have biases
//   reals      float32 [2]: eps of the norms, scale of attention scores
//   cosines    float32 [positions, head dim];  sines  the same, the first half negated
//   embedding  float32 or bfloat16 [vocabulary, hidden]
// and of packed matrices (layouts: packed.h; parts of a fused matrix lie behind each other, each beginning a tile)
//   norms      float32 [2 layers + 1, hidden]: attention and feed-forward norm of each layer, then the final one
//   qkv, o, gate_up, down, head   whole matrices stacked over layers; int8 and int4: five scales in the same order
//   qkv_bias   float32 [layers, qkv width], only with biases
// or of separate parameters, all float32: for each layer attention norm, feed-forward norm, wq, wk, wv, wo, w1, w3, w2 and with
// biases those of q, k, v; then the final norm and the head.
// bfloat16 comes as such or as its bits in uint16.
//
// Inputs of one pass ("pass" below):
//   tokens   int32 [3, tokens]: ids, positions, rows; tokens of a row stand behind each other at rising positions
//   wanted   int32 [wanted]: indices of tokens whose logits are asked for, rising
//   pages    int32 [rows, pages of a row]: numbers of pages of the pools
//   keys, values   float32 or bfloat16 [pages, layers, kv heads, page size * head dim rounded up to 16]; written in place
//
//   LlamaForward(pass..., weights...) -> float32 [wanted, vocabulary]
//   LlamaOpen(weights...) -> int64 [1], a handle; the memory of the weights must stay until LlamaClose(handle)
//   LlamaStep(handle int64 [1], pass...) -> float32 [wanted, vocabulary]: the same with few inputs, because each costs MindSpore
//   about 4 us a call
//   LlamaClose(handle int64 [1]) -> int64 [1]
//   LlamaRows(keys, values, ids, lengths, weights...) -> float32 [rows, vocabulary]: op_rows.cpp
//   LlamaFingerprint(handle int64 [1]) -> int64 [1], of a float32 model: another number when a weight is another
#include <map>
#include <memory>

#include "forward.h"
#include "op.h"
#include "read_model.h"

namespace codellama {
namespace {

// A model with the memory its passes take.
struct OpenModel {
  DescribedModel described;
  ForwardMemory memory;
};

// Models by handle; handles are not used again.
class Registry {
 public:
  int64_t add(std::shared_ptr<OpenModel> model) {
    const std::lock_guard<std::mutex> lock(mutex_);
    models_[++newest_] = std::move(model);
    return newest_;
  }

  std::shared_ptr<OpenModel> find(int64_t handle) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto place = models_.find(handle);
    return place == models_.end() ? nullptr : place->second;
  }

  void remove(int64_t handle) {
    const std::lock_guard<std::mutex> lock(mutex_);
    models_.erase(handle);
  }

 private:
  std::mutex mutex_;
  std::map<int64_t, std::shared_ptr<OpenModel>> models_;
  int64_t newest_ = 0;
};

Registry& registry() {
  static auto* models = new Registry;  // never destroyed: a pass may run while the process ends
  return *models;
}

// Reads the five inputs of a pass, checks and runs it.
void run_pass(const char* name, const Arguments& in, int first, OpenModel& open) {
  ForwardRequest request;
  in.require(in.dims(first) == 2 && in.size(first, 0) == 3, "tokens must be [3, tokens]");
  request.tokens = in.size(first, 1);
  request.ids = in.ints(first);
  request.positions = request.ids + request.tokens;
  request.rows = request.positions + request.tokens;
  in.require(in.dims(first + 1) == 1, "wanted must have one dim");
  request.wanted = in.elements(first + 1);
  request.wanted_tokens = in.ints(first + 1);
  in.require(in.dims(first + 2) == 2, "pages must be [rows, pages]");
  request.page_table = in.ints(first + 2);
  request.table_rows = in.size(first + 2, 0);
  request.table_pages = in.size(first + 2, 1);
  const int output = in.count() - 1;
  request.logits = in.float_output(output);
  in.require(in.elements(output) == request.wanted * open.described.model.vocabulary, "the output must be [wanted, vocabulary]");
  const KeyValuePools pools = read_pools(in, first + 3, open.described);
  check_request(name, open.described.model, pools, request);
  run_forward(open.described.model, pools, request, open.memory);
}

int64_t handle_of(const Arguments& in, int index) {
  in.require(in.elements(index) == 1, "takes and gives one handle");
  return *static_cast<const int64_t*>(in.typed(index, "int64"));
}

std::shared_ptr<OpenModel> opened(const Arguments& in) {
  const int64_t handle = handle_of(in, 0);
  auto open = registry().find(handle);
  in.require(open != nullptr, "there is no open model " + std::to_string(handle));
  return open;
}

}  // namespace
}  // namespace codellama

CODELLAMA_OP(LlamaForward) {
  constexpr int kPassInputs = 5;
  in.require(in.count() > kPassInputs + 2, "has too few inputs");
  codellama::OpenModel open;
  open.described = codellama::read_model(in, kPassInputs);
  codellama::run_pass("LlamaForward", in, 0, open);
}

CODELLAMA_OP(LlamaOpen) {
  auto open = std::make_shared<codellama::OpenModel>();
  open->described = codellama::read_model(in, 0);
  const int output = in.count() - 1;
  codellama::handle_of(in, output);
  *static_cast<int64_t*>(in.typed(output, "int64")) = codellama::registry().add(std::move(open));
}

CODELLAMA_OP(LlamaStep) {
  in.expect_count(7);
  codellama::run_pass("LlamaStep", in, 1, *codellama::opened(in));
}

CODELLAMA_OP(LlamaClose) {
  in.expect_count(2);
  codellama::registry().remove(codellama::handle_of(in, 0));
  *static_cast<int64_t*>(in.typed(1, "int64")) = codellama::handle_of(in, 0);
}

CODELLAMA_OP(LlamaFingerprint) {
  in.expect_count(2);
  const auto open = codellama::opened(in);
  const codellama::LlamaModel& model = open->described.model;
  in.require(model.form == codellama::Form::kFloat32 && !model.embedding_is_bfloat16, "takes float32 models");
  codellama::handle_of(in, 1);
  *static_cast<int64_t*>(in.typed(1, "int64")) = static_cast<int64_t>(codellama::fingerprint(model));
}
