// Entry points: checked arguments, and errors that are told instead of crashes.
//
// MindSpore calls `int Name(int count, void** data, int* dims, int64_t** shapes, const char** dtypes, void*, void*)` with
// inputs and then outputs; anything but 0 is a failure. Its message is kept for codellama_last_error().
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace codellama {

// What was passed to an entry point; every accessor checks and throws std::invalid_argument.
class Arguments {
 public:
  Arguments(const char* name, int count, void** data, const int* dims, int64_t** shapes, const char** dtypes)
      : name_(name), count_(count), data_(data), dims_(dims), shapes_(shapes), dtypes_(dtypes) {}

  int count() const { return count_; }

  void expect_count(int wanted) const { require(count_ == wanted, "takes " + std::to_string(wanted) + " tensors, got " + std::to_string(count_)); }

  bool is(int index, const char* dtype) const { return std::string(dtypes_[check(index)]) == dtype; }

  int dims(int index) const { return dims_[check(index)]; }

  int64_t size(int index, int dim) const {
    require(dim >= 0 && dim < dims(index), "tensor " + std::to_string(index) + " has no dim " + std::to_string(dim));
    return shapes_[index][dim];
  }

  // Product of all dims, or of those before the last.
  int64_t elements(int index) const { return product(index, dims(index)); }
  int64_t rows(int index) const { return product(index, dims(index) - 1); }
  int64_t last(int index) const { return size(index, dims(index) - 1); }

  const float* floats(int index) const { return static_cast<const float*>(typed(index, "float32")); }
  float* float_output(int index) const { return static_cast<float*>(typed(index, "float32")); }
  const int32_t* ints(int index) const { return static_cast<const int32_t*>(typed(index, "int32")); }

  // Memory of tensor `index`, whose type must have this name ("float32", "bfloat16", "int32", "uint8", ...).
  void* typed(int index, const char* dtype) const {
    require(is(index, dtype), "tensor " + std::to_string(index) + " has type " + dtypes_[index] + ", must be " + dtype);
    return data_[index];
  }

  void* raw(int index) const { return data_[check(index)]; }

  void require(bool holds, const std::string& problem) const {
    if (!holds) throw std::invalid_argument(std::string(name_) + ": " + problem);
  }

 private:
  int check(int index) const {
    require(index >= 0 && index < count_, "has no tensor " + std::to_string(index));
    return index;
  }

  int64_t product(int index, int dims) const {
    int64_t result = 1;
    for (int dim = 0; dim < dims; ++dim) result *= shapes_[check(index)][dim];
    return result;
  }

  const char* name_;
  int count_;
  void** data_;
  const int* dims_;
  int64_t** shapes_;
  const char** dtypes_;
};

// Remembers a message for codellama_last_error(); of the calling process, the newest one.
void set_last_error(const std::string& message);

// Runs the body of an entry point.
template <class Body>
int run_op(const char* name, int count, void** data, int* dims, int64_t** shapes, const char** dtypes, Body body) {
  try {
    body(Arguments(name, count, data, dims, shapes, dtypes));
    return 0;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return 1;
  }
}

}  // namespace codellama

// Defines an entry point: CODELLAMA_OP(Name) { ... uses `const Arguments& in` ... }
#define CODELLAMA_OP(Name)                                                                                                  \
  static void Name##Body(const ::codellama::Arguments& in);                                                                 \
  extern "C" __attribute__((visibility("default"))) int Name(int count, void** data, int* dims, int64_t** shapes,           \
                                                             const char** dtypes, void*, void*) {                           \
    return ::codellama::run_op(#Name, count, data, dims, shapes, dtypes, Name##Body);                                       \
  }                                                                                                                         \
  static void Name##Body(const ::codellama::Arguments& in)
