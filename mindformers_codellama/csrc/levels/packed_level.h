// The pieces of one table of PackedKernels.
#pragma once

#include "../packed.h"

namespace codellama::CODELLAMA_LEVEL {

void round_row(const float* x, int64_t columns, int64_t padded, Bfloat16* y);
void quantize_group(const float* x, int64_t count, int64_t group, int8_t* bytes, float* scale, int32_t* sum);
bool quantize_weights(const float* w, int64_t count, int64_t group, int limit, int8_t* q, Bfloat16* scale);
void multiply_float32(const TileProduct& product);
void multiply_bfloat16(const TileProduct& product);
void multiply_int8(const TileProduct& product);
void multiply_int4(const TileProduct& product);

}  // namespace codellama::CODELLAMA_LEVEL
