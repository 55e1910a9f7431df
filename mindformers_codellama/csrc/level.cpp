#include "level.h"

#include <atomic>
#include <initializer_list>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace codellama {
namespace {

#if defined(__x86_64__)
// By CPUID leaf 7, because old compilers do not know these names in __builtin_cpu_supports.
bool has_vnni_and_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(c & (1u << 11))) return false;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
}
#endif

bool machine_has(Level level) {
#if defined(__x86_64__)
  if (level == Level::kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (level == Level::kAvx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && has_vnni_and_bf16();
  }
#endif
#if defined(__aarch64__)
  if (level == Level::kNeon) return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#endif
  return level == Level::kPortable;
}

// kernels/build.py says which levels the compiler could make.
bool built(Level level) {
  switch (level) {
#if defined(CODELLAMA_BUILT_AVX2)
    case Level::kAvx2:
      return true;
#endif
#if defined(CODELLAMA_BUILT_AVX512)
    case Level::kAvx512:
      return true;
#endif
#if defined(CODELLAMA_BUILT_NEON)
    case Level::kNeon:
      return true;
#endif
    default:
      return level == Level::kPortable;
  }
}

Level best_level() {
  for (Level level : {Level::kAvx512, Level::kAvx2, Level::kNeon}) {
    if (has_level(level)) return level;
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

bool has_level(Level level) { return built(level) && machine_has(level); }

Level current_level() { return chosen().load(std::memory_order_relaxed); }

bool use_level(Level level) {
  if (!has_level(level)) return false;
  chosen().store(level, std::memory_order_relaxed);
  return true;
}

}  // namespace codellama
