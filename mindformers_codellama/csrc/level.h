// Which instructions the kernels use: the best the machine has, unless a person says otherwise.
#pragma once

namespace codellama {

enum class Level { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kNeon = 3 };

// "portable", "avx2", "avx512", "neon".
const char* level_name(Level level);

// Whether this build has the level and this machine can run it.
bool has_level(Level level);

// The level in use; the best there is until use_level says otherwise.
Level current_level();

// False, and nothing changed, when has_level(level) is false.
bool use_level(Level level);

}  // namespace codellama

// Tables of one module, one per level, named codellama::<level>::<name>.
#if defined(__aarch64__)
#define CODELLAMA_DECLARE(Type, name) \
  namespace portable {                \
  extern const Type name;             \
  }                                   \
  namespace neon {                    \
  extern const Type name;             \
  }
#define CODELLAMA_TABLE(name) (::codellama::current_level() == ::codellama::Level::kNeon ? neon::name : portable::name)
#elif defined(__x86_64__)
#define CODELLAMA_DECLARE(Type, name) \
  namespace portable {                \
  extern const Type name;             \
  }                                   \
  namespace avx2 {                    \
  extern const Type name;             \
  }                                   \
  namespace avx512 {                  \
  extern const Type name;             \
  }
#define CODELLAMA_TABLE(name)                                                              \
  (::codellama::current_level() == ::codellama::Level::kAvx512 ? avx512::name              \
   : ::codellama::current_level() == ::codellama::Level::kAvx2 ? avx2::name : portable::name)
#else
#define CODELLAMA_DECLARE(Type, name) \
  namespace portable {                \
  extern const Type name;             \
  }
#define CODELLAMA_TABLE(name) (portable::name)
#endif
