// What Python asks of the library as a whole.
#include <initializer_list>
#include <mutex>

#include "level.h"
#include "op.h"
#include "parallel.h"

#define CODELLAMA_EXPORT extern "C" __attribute__((visibility("default")))

namespace codellama {
namespace {

std::mutex& error_mutex() {
  static std::mutex mutex;
  return mutex;
}

std::string& newest_error() {
  static std::string message;
  return message;
}

}  // namespace

void set_last_error(const std::string& message) {
  const std::lock_guard<std::mutex> lock(error_mutex());
  newest_error() = message;
}

}  // namespace codellama

// Raised with every change of an entry point; the package refuses a library of another version.
CODELLAMA_EXPORT int codellama_version() { return CODELLAMA_KERNELS_VERSION; }

// Copies the newest message into `text`, cut to `size` bytes with its ending 0.
CODELLAMA_EXPORT void codellama_last_error(char* text, int size) {
  const std::lock_guard<std::mutex> lock(codellama::error_mutex());
  const std::string& message = codellama::newest_error();
  const int length = static_cast<int>(message.copy(text, size > 0 ? size - 1 : 0));
  if (size > 0) text[length] = 0;
}

CODELLAMA_EXPORT const char* codellama_level() { return codellama::level_name(codellama::current_level()); }

// 0 when the level is now in use, 1 when this machine or build does not have it.
CODELLAMA_EXPORT int codellama_use_level(const char* name) {
  using codellama::Level;
  for (Level level : {Level::kPortable, Level::kAvx2, Level::kAvx512, Level::kNeon}) {
    if (std::string(name) == codellama::level_name(level)) return codellama::use_level(level) ? 0 : 1;
  }
  return 1;
}

CODELLAMA_EXPORT int codellama_threads() { return codellama::thread_count(); }

// 0 when the number holds from now on, 1 when a kernel is running in this thread.
CODELLAMA_EXPORT int codellama_set_threads(int count) {
  try {
    codellama::set_thread_count(count);
    return 0;
  } catch (const std::exception& error) {
    codellama::set_last_error(error.what());
    return 1;
  }
}

// Microseconds that waiting threads spin before they sleep.
CODELLAMA_EXPORT int codellama_spin() { return codellama::spin_microseconds(); }

CODELLAMA_EXPORT void codellama_set_spin(int microseconds) { codellama::set_spin_microseconds(microseconds); }
