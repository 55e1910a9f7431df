#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace codellama {
namespace {

constexpr int kSpins = 20000;

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

thread_local bool is_worker = false;

// Threads that wait for a job, run their share and report; the caller of run() is worker 0.
class Pool {
 public:
  explicit Pool(int workers) : workers_(workers) {
    for (int worker = 1; worker < workers; ++worker) threads_.emplace_back([this, worker] { serve(worker); });
  }

  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ends_ = true;
      round_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int workers() const { return workers_; }

  void run(const std::function<void(int, int)>& function) {
    function_ = &function;
    left_.store(workers_ - 1);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      round_.fetch_add(1);
    }
    if (sleeping_.load() > 0) wake_.notify_all();
    is_worker = true;
    function(0, workers_);
    is_worker = false;
    while (left_.load(std::memory_order_acquire) > 0) pause();
  }

  void barrier() {
    const int arrived = arrived_.fetch_add(1) + 1;
    const int goal = (arrived + workers_ - 1) / workers_ * workers_;
    for (int spin = 0; arrived_.load(std::memory_order_acquire) < goal; ++spin) {
      if (spin < kSpins) {
        pause();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  void serve(int worker) {
    is_worker = true;
    uint64_t seen = 0;
    while (true) {
      for (int spin = 0; round_.load(std::memory_order_acquire) == seen; ++spin) {
        if (spin < kSpins) {
          pause();
          continue;
        }
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, [&] { return round_.load() != seen; });
        sleeping_.fetch_sub(1);
      }
      seen = round_.load(std::memory_order_acquire);
      if (ends_) return;
      (*function_)(worker, workers_);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int workers_;
  std::vector<std::thread> threads_;
  const std::function<void(int, int)>* function_ = nullptr;
  std::atomic<uint64_t> round_{0};
  std::atomic<int> left_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<int> arrived_{0};
  std::atomic<bool> ends_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// One job at a time; a second caller waits.
std::mutex& job_mutex() {
  static std::mutex mutex;
  return mutex;
}

std::unique_ptr<Pool>& pool() {
  // Never destroyed: threads must not be joined while the process unloads its libraries.
  static auto* holder = new std::unique_ptr<Pool>(std::make_unique<Pool>(std::max(1u, std::thread::hardware_concurrency())));
  return *holder;
}

}  // namespace

int thread_count() { return pool()->workers(); }

void set_thread_count(int count) {
  const std::lock_guard<std::mutex> lock(job_mutex());
  if (count != pool()->workers()) pool() = std::make_unique<Pool>(std::max(1, count));
}

void parallel_for(const std::function<void(int, int)>& function) {
  if (is_worker) {
    function(0, 1);
    return;
  }
  const std::lock_guard<std::mutex> lock(job_mutex());
  if (pool()->workers() == 1) {
    function(0, 1);
  } else {
    pool()->run(function);
  }
}

Piece piece_of(int64_t count, int worker, int workers, int64_t step) {
  const int64_t steps = (count + step - 1) / step;
  const int64_t begin = std::min(count, steps * worker / workers * step);
  const int64_t end = std::min(count, steps * (worker + 1) / workers * step);
  return {begin, end};
}

void wait_for_workers() {
  if (is_worker) pool()->barrier();
}

void* Scratch::bytes(int64_t size) {
  constexpr int64_t kAlignment = 64;
  if (static_cast<int64_t>(memory_.size()) < size + kAlignment) memory_ = std::vector<unsigned char>(size + kAlignment);
  const auto address = reinterpret_cast<uintptr_t>(memory_.data());
  return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace codellama
