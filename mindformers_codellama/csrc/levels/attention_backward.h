// Backward half of attention_training.h, compiled on its own; the table of both is in attention_forward.cpp.
#pragma once

#include "../attention_training.h"

namespace codellama::CODELLAMA_LEVEL {

void attention_backward(const AttentionCall& call, const AttentionTask& task);

}  // namespace codellama::CODELLAMA_LEVEL
