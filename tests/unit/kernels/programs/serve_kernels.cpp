// The entry points behind two pipes, so that the Python tests can reach kernels of a machine that is only emulated.
//
// A request on stdin: text name; int32 count; per tensor text dtype, int32 dims, int64 sizes, int64 bytes, the bytes. (text:
// int32 length and characters.) Names that begin with ':' are for the library: ":level portable", ":threads 2". The answer on
// stdout: int32 code, text error, and after code 0 the bytes of every tensor. The only word is the library.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

using Entry = int(int, void**, int*, int64_t**, const char**, void*, void*);

void get(void* to, size_t size) {
  if (std::fread(to, 1, size, stdin) != size) std::exit(0);  // the other side has ended
}

template <class T>
T get() {
  T value;
  get(&value, sizeof(value));
  return value;
}

std::string get_text() {
  std::string text(static_cast<size_t>(get<int32_t>()), ' ');
  get(text.data(), text.size());
  return text;
}

void put(const void* from, size_t size) { std::fwrite(from, 1, size, stdout); }

struct Tensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

Tensor get_tensor() {
  Tensor tensor;
  tensor.dtype = get_text();
  tensor.shape.resize(static_cast<size_t>(get<int32_t>()));
  for (int64_t& size : tensor.shape) size = get<int64_t>();
  const auto size = static_cast<size_t>(get<int64_t>());
  tensor.bytes.reserve(size + 1);  // an empty tensor has an address too
  tensor.bytes.resize(size);
  get(tensor.bytes.data(), tensor.bytes.size());
  return tensor;
}

template <class Function>
Function* find(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

int control(void* library, const std::string& words) {
  const size_t space = words.find(' ');
  const std::string value = words.substr(space + 1);
  if (words.substr(0, space) == ":level") return find<int(const char*)>(library, "codellama_use_level")(value.c_str());
  return find<int(int)>(library, "codellama_set_threads")(std::atoi(value.c_str()));
}

int run(void* library, const std::string& name, std::vector<Tensor>& tensors) {
  if (name[0] == ':') return control(library, name);
  Entry* entry = find<Entry>(library, name.c_str());
  if (entry == nullptr) return 2;
  std::vector<void*> data;
  std::vector<int> dims;
  std::vector<int64_t*> shapes;
  std::vector<const char*> dtypes;
  for (Tensor& tensor : tensors) {
    data.push_back(tensor.bytes.data());
    dims.push_back(static_cast<int>(tensor.shape.size()));
    shapes.push_back(tensor.shape.data());
    dtypes.push_back(tensor.dtype.c_str());
  }
  return entry(static_cast<int>(tensors.size()), data.data(), dims.data(), shapes.data(), dtypes.data(), nullptr, nullptr);
}

}  // namespace

int main(int count, char** words) {
  void* library = count == 2 ? dlopen(words[1], RTLD_NOW) : nullptr;
  if (library == nullptr) {
    std::fprintf(stderr, "cannot load the library: %s\n", count == 2 ? dlerror() : "name it");
    return 1;
  }
  while (true) {
    const std::string name = get_text();
    std::vector<Tensor> tensors(static_cast<size_t>(get<int32_t>()));
    for (Tensor& tensor : tensors) tensor = get_tensor();
    const int32_t code = run(library, name, tensors);
    char error[4096] = "";
    if (code == 1) find<void(char*, int)>(library, "codellama_last_error")(error, sizeof(error));
    const int32_t length = static_cast<int32_t>(std::string(error).size());
    put(&code, sizeof(code));
    put(&length, sizeof(length));
    put(error, static_cast<size_t>(length));
    if (code == 0) {
      for (const Tensor& tensor : tensors) put(tensor.bytes.data(), tensor.bytes.size());
    }
    std::fflush(stdout);
  }
}
