// Threads that kernels share, and scratch memory of one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace codellama {

// Threads used by parallel_for, this one included; at least 1.
int thread_count();

// Sets them for the calls that follow; must not be called inside parallel_for.
void set_thread_count(int count);

// Calls function(worker, workers) once for every worker in [0, workers), workers = thread_count(), and waits for all.
// Workers spin for some microseconds after their work and then sleep. Nested calls run in the calling thread alone.
void parallel_for(const std::function<void(int worker, int workers)>& function);

// The piece [begin, end) of `count` items for one of `workers`, in multiples of `step`.
struct Piece {
  int64_t begin, end;
};
Piece piece_of(int64_t count, int worker, int workers, int64_t step = 1);

// A barrier between the workers of one parallel_for; all must call it equally often.
void wait_for_workers();

// 64-byte aligned memory that grows and is used again; one per purpose and thread (make it thread_local).
class Scratch {
 public:
  // At least `count` elements of T; what was in it before is lost when it has to grow.
  template <class T>
  T* get(int64_t count) {
    return static_cast<T*>(bytes(count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  void* bytes(int64_t size);
  std::vector<unsigned char> memory_;
};

}  // namespace codellama
