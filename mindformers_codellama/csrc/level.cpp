#include "level.h"

#include <atomic>
#include <initializer_list>

namespace codellama {
namespace {

bool machine_has(Level level) {
#if defined(__x86_64__)
  if (level == Level::kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (level == Level::kAvx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
  }
#endif
#if defined(__aarch64__)
  if (level == Level::kNeon) return true;
#endif
  return level == Level::kPortable;
}

Level best_level() {
  for (Level level : {Level::kAvx512, Level::kAvx2, Level::kNeon}) {
    if (machine_has(level)) return level;
  }
  return Level::kPortable;
}

std::atomic<Level>& chosen() {
  static std::atomic<Level> level{best_level()};
  return level;
}

}  // namespace

const char* level_name(Level level) {
  switch (level) {
    case Level::kAvx2:
      return "avx2";
    case Level::kAvx512:
      return "avx512";
    case Level::kNeon:
      return "neon";
    default:
      return "portable";
  }
}

bool has_level(Level level) { return machine_has(level); }

Level current_level() { return chosen().load(std::memory_order_relaxed); }

bool use_level(Level level) {
  if (!has_level(level)) return false;
  chosen().store(level, std::memory_order_relaxed);
  return true;
}

}  // namespace codellama
