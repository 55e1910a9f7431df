// Threads that kernels share, and scratch memory of one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace codellama {

// More than this are never started.
constexpr int kMostThreads = 1024;

// How long a thread that waits for others spins before it sleeps, unless set_spin_microseconds said otherwise.
constexpr int kSpinMicroseconds = 50;

// Threads wanted for parallel_for, the caller included; at least 1. What a job really gets is its `workers`.
int thread_count();

// Sets them for the calls that follow, waiting for a job that runs; std::logic_error inside parallel_for.
void set_thread_count(int count);

int spin_microseconds();

// 0: never spin. With more threads than cores nobody spins whatever this says.
void set_spin_microseconds(int microseconds);

// Calls function(worker, workers) once for every worker in [0, workers) and waits for all; the caller is worker 0.
// What one of them throws is thrown here, after all have ended. Nested calls, and calls with one thread, run
// function(0, 1) in the calling thread. Of two threads that call at once the second waits. Works in a child of fork().
void parallel_for(const std::function<void(int worker, int workers)>& function);

// The piece [begin, end) of `count` items for one of `workers`, in multiples of `step`.
struct Piece {
  int64_t begin, end;
};
Piece piece_of(int64_t count, int worker, int workers, int64_t step = 1);

// A barrier between the workers of one parallel_for; all must call it equally often. Does nothing in a nested call, with
// one worker or outside. When a worker throws, the others leave their barriers by an exception of the pool's own.
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
