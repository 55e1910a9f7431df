// The inputs of an entry point that describe a model, to the structs of forward.h.
#pragma once

#include "forward.h"
#include "op.h"

namespace codellama {

// A model and the size of the pages its keys and values lie in.
struct DescribedModel {
  LlamaModel model;
  int64_t page_size = 0;
};

// Reads the inputs from `first` on, of which op_forward.cpp says what they are, to the last one before the only output; throws
// std::invalid_argument unless sizes and types fit. Nothing is copied: the weights must stay where they are.
DescribedModel read_model(const Arguments& in, int first);

// The pools of keys and values at tensors `first` and `first + 1`, checked likewise; they are written in place.
KeyValuePools read_pools(const Arguments& in, int first, const DescribedModel& described);

}  // namespace codellama
