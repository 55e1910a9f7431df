// Everything callers may do with the threads of parallel.h; ends with "ok" or says what was wrong. Run under ThreadSanitizer.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>

#include "parallel.h"

namespace {

using codellama::parallel_for;
using codellama::wait_for_workers;

void check(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  std::_Exit(1);
}

// Every worker once; plain memory written by workers is seen by the caller.
void sums(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    std::vector<int64_t> items(1000 + round % 7);
    std::vector<int> calls(codellama::kMostThreads);
    int told = 0;
    parallel_for([&](int worker, int workers) {
      ++calls[worker];
      if (worker == 0) told = workers;
      const auto piece = codellama::piece_of(static_cast<int64_t>(items.size()), worker, workers);
      for (int64_t i = piece.begin; i < piece.end; ++i) items[i] += i + 1;
    });
    const int64_t count = static_cast<int64_t>(items.size());
    check(std::accumulate(items.begin(), items.end(), int64_t{0}) == count * (count + 1) / 2, "a piece was left out or done twice");
    check(std::accumulate(calls.begin(), calls.end(), 0) == told && told >= 1, "a worker was called twice or not at all");
  }
}

// What was written before a barrier is seen behind it by all.
void barriers(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    std::vector<int> steps(codellama::kMostThreads);
    std::atomic<bool> wrong{false};
    parallel_for([&](int worker, int workers) {
      for (int step = 1; step <= 20; ++step) {
        steps[worker] = step;
        wait_for_workers();
        for (int other = 0; other < workers; ++other) wrong = wrong || steps[other] != step;
        wait_for_workers();
      }
    });
    check(!wrong, "a barrier let a worker through early");
  }
}

void exceptions() {
  for (int guilty = 0; guilty < codellama::thread_count(); ++guilty) {
    for (bool waiting : {false, true}) {
      std::string told;
      try {
        parallel_for([&](int worker, int) {
          if (worker == guilty) throw std::runtime_error("of worker " + std::to_string(worker));
          if (waiting) wait_for_workers();
        });
      } catch (const std::runtime_error& error) {
        told = error.what();
      }
      check(told == "of worker " + std::to_string(guilty), "an exception was lost: " + told);
      sums(1);
    }
  }
}

void nested() {
  std::atomic<int> inner{0};
  std::atomic<int> refused{0};
  parallel_for([&](int, int) {
    parallel_for([&](int worker, int workers) {
      check(worker == 0 && workers == 1, "a nested call has more than one worker");
      wait_for_workers();
      parallel_for([&](int, int) { ++inner; });
    });
    wait_for_workers();
    try {
      codellama::set_thread_count(3);
    } catch (const std::logic_error&) {
      ++refused;
    }
  });
  check(inner == codellama::thread_count() && refused == inner, "nested calls did not run once per worker");
  wait_for_workers();
}

// Callers in several threads, while another one changes the number of threads.
void callers() {
  std::atomic<bool> ends{false};
  std::thread changer([&] {
    for (int i = 0; !ends; ++i) {
      codellama::set_thread_count(1 + i % 4);
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
  });
  std::vector<std::thread> threads;
  for (int caller = 0; caller < 3; ++caller) threads.emplace_back([] { sums(100), barriers(10); });
  for (std::thread& thread : threads) thread.join();
  ends = true;
  changer.join();
}

// A child has threads of its own, also when another thread worked at the moment of the fork.
void forks() {
  std::atomic<bool> ends{false};
  std::thread busy([&] {
    while (!ends) sums(1);
  });
  for (int i = 0; i < 5; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      sums(20), barriers(2);
      std::_Exit(7);
    }
    int status = 0;
    waitpid(child, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 7, "a child of fork failed");
  }
  ends = true;
  busy.join();
}

}  // namespace

int main(int count, char** words) {
  const bool with_forks = count > 1 && std::strcmp(words[1], "forks") == 0;  // ThreadSanitizer does not follow them
  for (int spin : {codellama::kSpinMicroseconds, 0}) {
    codellama::set_spin_microseconds(spin);
    for (int threads : {1, 2, 3, 8}) {
      codellama::set_thread_count(threads);
      sums(200), barriers(20), exceptions(), nested();
      if (with_forks) forks();
    }
    callers();
  }
  codellama::set_thread_count(-5);
  check(codellama::thread_count() == 1, "fewer than one thread");
  sums(1);
  std::puts("ok");
  return 0;
}
