#include "parallel.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace codellama {
namespace {

using Function = std::function<void(int, int)>;

constexpr int kCacheLine = 64;
constexpr int kPausesPerLook = 32;  // at the clock, which costs about as much

std::atomic<int>& spin_time() {
  static std::atomic<int> microseconds{kSpinMicroseconds};
  return microseconds;
}

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True as soon as `holds()`; false when it does not within the spin time.
template <class Condition>
bool spin_until(Condition holds, std::chrono::microseconds limit) {
  if (holds()) return true;
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (holds()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// Where threads wait until a condition over atomics holds: spinning first, then asleep.
class Meeting {
 public:
  template <class Condition>
  void wait(Condition holds, std::chrono::microseconds spin) {
    if (spin_until(holds, spin)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    sleeping_.fetch_add(1);
    changed_.wait(lock, holds);
    sleeping_.fetch_sub(1);
  }

  // To be called after every change that may make a condition hold. Nobody is missed: the sleeper counts itself before it
  // looks at the condition, the caller has changed the condition before it looks at the count (all sequentially consistent).
  void tell() {
    if (sleeping_.load() == 0) return;
    { const std::lock_guard<std::mutex> lock(mutex_); }
    changed_.notify_all();
  }

 private:
  std::atomic<int> sleeping_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
};

// Thrown out of a barrier when another worker has failed; never leaves the pool.
struct Abandoned {};

// Cores of the thread that loaded the library: workers take these and not those of whichever thread starts them, because
// a framework may have tied that one to a core.
struct Cores {
  cpu_set_t set;
  bool known;
  Cores() : known(sched_getaffinity(0, sizeof(set), &set) == 0) {}
};
const Cores cores_at_load;

// Threads that wait for a job, run their share of it and report; the caller of run() is worker 0.
class Pool {
 public:
  // Starts `workers - 1` threads, or as many as the machine grants.
  explicit Pool(int workers);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int workers() const { return workers_; }
  void run(const Function& function);
  void barrier();

 private:
  void serve(int worker);
  void work(int worker);
  void fail(std::exception_ptr error);
  std::chrono::microseconds spin() const { return std::chrono::microseconds(crowded_ ? 0 : spin_time().load()); }

  int workers_;
  bool crowded_;  // more workers than cores: whoever spins keeps the others from working
  std::vector<std::thread> threads_;
  const Function* function_ = nullptr;
  std::exception_ptr error_;
  std::mutex error_mutex_;
  std::atomic<bool> failed_{false};
  std::atomic<bool> ends_{false};
  alignas(kCacheLine) std::atomic<uint64_t> round_{0};   // of jobs; raised when one begins
  alignas(kCacheLine) std::atomic<int> left_{0};         // workers that have not finished it
  alignas(kCacheLine) std::atomic<int64_t> arrived_{0};  // at barriers, in this job
  Meeting begins_, finished_, together_;
};

// The pool whose job this thread works on, and how deep parallel_for is nested in it.
thread_local Pool* team = nullptr;
thread_local int depth = 0;

// Marks this thread as working on a job of `pool`, or alone when there is none.
class Working {
 public:
  explicit Working(Pool* pool) : before_(team) {
    team = pool;
    ++depth;
  }
  ~Working() {
    team = before_;
    --depth;
  }
  Working(const Working&) = delete;
  Working& operator=(const Working&) = delete;

 private:
  Pool* before_;
};

// Signals meant for the program, an interrupt for example, are not for workers: threads started meanwhile do not get them.
class SignalsElsewhere {
 public:
  SignalsElsewhere() {
    sigset_t all;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsElsewhere() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsElsewhere(const SignalsElsewhere&) = delete;
  SignalsElsewhere& operator=(const SignalsElsewhere&) = delete;

 private:
  sigset_t before_;
};

Pool::Pool(int workers) : workers_(1) {
  const SignalsElsewhere signals;
  const int cores = cores_at_load.known ? CPU_COUNT(&cores_at_load.set) : static_cast<int>(std::thread::hardware_concurrency());
  crowded_ = workers > std::max(1, cores);
  threads_.reserve(static_cast<size_t>(workers));
  try {
    for (int worker = 1; worker < workers; ++worker) threads_.emplace_back([this, worker] { serve(worker); });
  } catch (const std::system_error&) {
    // a limit of the machine: the threads there are do all the work
  }
  workers_ = static_cast<int>(threads_.size()) + 1;
}

Pool::~Pool() {
  ends_.store(true);
  round_.fetch_add(1);
  begins_.tell();
  for (std::thread& thread : threads_) thread.join();
}

void Pool::run(const Function& function) {
  function_ = &function;
  error_ = nullptr;
  failed_.store(false);
  arrived_.store(0);
  left_.store(workers_ - 1);
  round_.fetch_add(1);
  begins_.tell();
  work(0);
  finished_.wait([this] { return left_.load() == 0; }, spin());
  if (failed_.load()) std::rethrow_exception(error_);
}

void Pool::barrier() {
  const int64_t arrived = arrived_.fetch_add(1) + 1;
  const int64_t goal = (arrived + workers_ - 1) / workers_ * workers_;
  if (arrived == goal) {
    together_.tell();
  } else {
    together_.wait([&] { return arrived_.load() >= goal || failed_.load(); }, spin());
  }
  if (failed_.load()) throw Abandoned();
}

void Pool::serve(int worker) {
  if (cores_at_load.known) pthread_setaffinity_np(pthread_self(), sizeof(cores_at_load.set), &cores_at_load.set);
  pthread_setname_np(pthread_self(), ("codellama-" + std::to_string(worker)).c_str());
  for (uint64_t seen = 0;; ++seen) {
    begins_.wait([&] { return round_.load() != seen; }, seen == 0 ? std::chrono::microseconds(0) : spin());
    if (ends_.load()) return;
    work(worker);
    if (left_.fetch_sub(1) == 1) finished_.tell();
  }
}

void Pool::work(int worker) {
  const Working working(this);
  try {
    (*function_)(worker, workers_);
  } catch (const Abandoned&) {
    // the worker that failed has told why
  } catch (...) {
    fail(std::current_exception());
  }
}

void Pool::fail(std::exception_ptr error) {
  {
    const std::lock_guard<std::mutex> lock(error_mutex_);
    if (!error_) error_ = std::move(error);
  }
  failed_.store(true);
  together_.tell();
}

// What is shared by all callers: one job runs at a time, a second caller sleeps until it is done.
struct Shared {
  std::mutex job;
  std::unique_ptr<Pool> pool;  // made by the first job
};

std::atomic<int>& wanted_threads() {
  static std::atomic<int> count{std::max(1, static_cast<int>(std::thread::hardware_concurrency()))};
  return count;
}

std::atomic<Shared*>& shared_holder() {
  static std::atomic<Shared*> holder{nullptr};
  return holder;
}

// A child of fork() has none of the threads, and mutexes in whatever state they were: it begins anew.
void forget_after_fork() {
  shared_holder().store(nullptr);
  team = nullptr;
  depth = 0;
}

// Never destroyed: threads must not be joined while the process unloads its libraries.
Shared& shared() {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_after_fork);
  static_cast<void>(registered);
  Shared* found = shared_holder().load();
  if (found) return *found;
  auto made = std::make_unique<Shared>();
  if (shared_holder().compare_exchange_strong(found, made.get())) return *made.release();
  return *found;
}

}  // namespace

int thread_count() { return wanted_threads().load(); }

void set_thread_count(int count) {
  if (depth > 0) throw std::logic_error("the number of threads cannot change inside parallel_for");
  Shared& all = shared();
  const std::lock_guard<std::mutex> lock(all.job);
  wanted_threads().store(std::min(std::max(1, count), kMostThreads));
  if (all.pool && all.pool->workers() != thread_count()) all.pool.reset();
}

int spin_microseconds() { return spin_time().load(); }

void set_spin_microseconds(int microseconds) { spin_time().store(std::max(0, microseconds)); }

void parallel_for(const Function& function) {
  if (depth > 0 || thread_count() == 1) {
    const Working alone(nullptr);
    function(0, 1);
    return;
  }
  Shared& all = shared();
  const std::lock_guard<std::mutex> lock(all.job);
  if (!all.pool) all.pool = std::make_unique<Pool>(thread_count());
  all.pool->run(function);
}

void wait_for_workers() {
  if (team) team->barrier();
}

Piece piece_of(int64_t count, int worker, int workers, int64_t step) {
  const int64_t steps = (count + step - 1) / step;
  const int64_t begin = std::min(count, steps * worker / workers * step);
  const int64_t end = std::min(count, steps * (worker + 1) / workers * step);
  return {begin, end};
}

void* Scratch::bytes(int64_t size) {
  constexpr int64_t kAlignment = 64;
  if (static_cast<int64_t>(memory_.size()) < size + kAlignment) memory_ = std::vector<unsigned char>(size + kAlignment);
  const auto address = reinterpret_cast<uintptr_t>(memory_.data());
  return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace codellama
