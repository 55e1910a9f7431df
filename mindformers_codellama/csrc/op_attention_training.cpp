// Entry points of attention for training: arguments, and who does which blocks.
#include <algorithm>
#include <atomic>
#include <vector>

#include "attention_training.h"
#include "op.h"
#include "parallel.h"

namespace codellama {
namespace {

// Tasks per worker below which a head's blocks are divided too.
constexpr int64_t kTasksPerWorker = 4;

// q [B, S, N H], k, v [B, S, K H], table float32 [P, H], positions, segments, tokens int32 [B, S], heads int32 [3] (N, K, pad)
// at 0 to 7, checked.
AttentionCall read_call(const Arguments& in) {
  AttentionCall call;
  const int32_t* heads = in.ints(7);
  in.require(in.elements(7) == 3, "the head counts must be N, K and the pad token");
  in.require(in.dims(0) == 3 && in.dims(1) == 3 && in.dims(2) == 3, "q, k and v must be [B, S, width]");
  call.heads = heads[0], call.kv_heads = heads[1], call.pad_token = heads[2];
  call.length = in.size(0, 1);
  in.require(call.heads > 0 && call.kv_heads > 0 && call.heads % call.kv_heads == 0, "K must divide N");
  in.require(in.last(0) % call.heads == 0, "N must divide the width of q");
  call.width = in.last(0) / call.heads;
  in.require(call.width > 0 && call.width % 2 == 0, "the width of a head must be even");
  call.bfloat16 = in.is(0, "bfloat16");
  const char* type = call.bfloat16 ? "bfloat16" : "float32";
  for (int index = 1; index < 3; ++index) {
    in.require(in.size(index, 0) == in.size(0, 0) && in.size(index, 1) == call.length && in.last(index) == call.kv_heads * call.width,
               "k and v must be [B, S, K H]");
  }
  call.q = in.typed(0, type), call.k = in.typed(1, type), call.v = in.typed(2, type);
  call.table = in.floats(3);
  in.require(in.dims(3) == 2 && in.last(3) == call.width, "the rotary table must be [P, H]");
  for (int index = 4; index < 7; ++index) in.require(in.elements(index) == in.rows(0), "positions, segments and tokens must be [B, S]");
  call.positions = in.ints(4), call.segments = in.ints(5), call.tokens = in.ints(6);
  const int64_t known = in.size(3, 0);
  for (int64_t i = 0; i < in.rows(0); ++i) {
    in.require(call.positions[i] >= 0 && call.positions[i] < known,
               "position " + std::to_string(call.positions[i]) + " is not in the table");
  }
  return call;
}

// Memory of tensor `index`, which must have the type of q and the size of tensor `like`.
void* same(const Arguments& in, int index, int like) {
  in.require(in.elements(index) == in.elements(like), "tensor " + std::to_string(index) + " has another size than it must have");
  return in.typed(index, in.is(0, "bfloat16") ? "bfloat16" : "float32");
}

float* lse_of(const Arguments& in, int index, const AttentionCall& call) {
  in.require(in.elements(index) == in.rows(0) * call.heads, "the logarithms of sums must be [B, N, S]");
  return in.float_output(index);
}

// Runs the tasks on all workers, whoever is free taking the next.
void run(const std::vector<AttentionTask>& tasks, const AttentionCall& call, void (*kernel)(const AttentionCall&, const AttentionTask&)) {
  std::atomic<size_t> next{0};
  parallel_for([&](int, int) {
    for (size_t i = next.fetch_add(1); i < tasks.size(); i = next.fetch_add(1)) kernel(call, tasks[i]);
  });
}

// One task per row and key/value head, each cut into `parts` ranges of blocks by `cut`.
template <class Cut>
std::vector<AttentionTask> plan(int64_t rows, int64_t kv_heads, int64_t blocks, int64_t parts, Cut cut) {
  std::vector<AttentionTask> tasks;
  for (int64_t part = 0; part < parts; ++part) {
    const Piece piece{blocks * part / parts, blocks * (part + 1) / parts};
    if (piece.begin == piece.end) continue;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t head = 0; head < kv_heads; ++head) {
        AttentionTask task;
        task.row = row, task.kv_head = head;
        task.query_begin = 0, task.query_end = blocks, task.key_begin = 0, task.key_end = blocks;
        cut(task, piece);
        tasks.push_back(task);
      }
    }
  }
  return tasks;
}

// Parts of every head so that no worker is left without work.
int64_t parts_of(int64_t heads, int64_t blocks) {
  const int64_t workers = thread_count();
  if (heads % workers == 0 || heads >= kTasksPerWorker * workers) return 1;
  return std::min(blocks, (kTasksPerWorker * workers + heads - 1) / heads);
}

// o and lse of every query.
void forward(const Arguments& in) {
  in.expect_count(10);
  AttentionCall call = read_call(in);
  call.o = same(in, 8, 0), call.lse = lse_of(in, 9, call);
  if (in.rows(0) == 0) return;
  const int64_t blocks = (call.length + kAttentionBlock - 1) / kAttentionBlock;
  std::vector<AttentionTask> tasks =
      plan(in.size(0, 0), call.kv_heads, blocks, parts_of(in.size(0, 0) * call.kv_heads, blocks), [](AttentionTask& task, Piece piece) {
        task.query_begin = piece.begin, task.query_end = piece.end;
      });
  std::reverse(tasks.begin(), tasks.end());  // the last queries see most: first
  run(tasks, call, attention_training().forward);
}

// dq, dk and dv. Few heads for the workers: dq by blocks of queries and dk, dv by blocks of keys, 7 products instead of 5.
void backward(const Arguments& in) {
  in.expect_count(14);
  AttentionCall call = read_call(in);
  call.o = same(in, 8, 0), call.lse = lse_of(in, 9, call), call.d_o = same(in, 10, 0);
  call.dq = same(in, 11, 0), call.dk = same(in, 12, 1), call.dv = same(in, 13, 2);
  if (in.rows(0) == 0) return;
  const int64_t blocks = (call.length + kAttentionBlock - 1) / kAttentionBlock;
  const int64_t parts = parts_of(in.size(0, 0) * call.kv_heads, blocks);
  if (parts == 1) {
    run(plan(in.size(0, 0), call.kv_heads, blocks, 1, [](AttentionTask&, Piece) {}), call, attention_training().backward);
    return;
  }
  std::vector<AttentionTask> tasks = plan(in.size(0, 0), call.kv_heads, blocks, parts, [](AttentionTask& task, Piece piece) {
    task.key_begin = piece.begin, task.key_end = piece.end;
    task.query_begin = piece.begin, task.gives_queries = false;
  });
  const std::vector<AttentionTask> queries = plan(in.size(0, 0), call.kv_heads, blocks, parts, [](AttentionTask& task, Piece piece) {
    task.query_begin = piece.begin, task.query_end = piece.end;
    task.key_end = piece.end, task.gives_keys = false;
  });
  tasks.insert(tasks.end(), queries.rbegin(), queries.rend());
  run(tasks, call, attention_training().backward);
}

}  // namespace
}  // namespace codellama

// AttentionForward(q [B, S, N H], k [B, S, K H], v like k, table float32 [P, H], positions int32 [B, S], segments, tokens likewise,
// heads int32 [3]) -> o like q, lse float32 [B, N, S]; q, k, v float32 or bfloat16
CODELLAMA_OP(AttentionForward) { codellama::forward(in); }

// AttentionBackward(the inputs of AttentionForward, o, lse, gradient of o) -> dq, dk, dv
CODELLAMA_OP(AttentionBackward) { codellama::backward(in); }
