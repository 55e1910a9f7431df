// The table of one level.
#include "packed_level.h"

namespace codellama::CODELLAMA_LEVEL {

extern const PackedKernels packed_kernels = {
    round_row, quantize_group, {multiply_float32, multiply_bfloat16, multiply_int8, multiply_int4}, quantize_weights};

}  // namespace codellama::CODELLAMA_LEVEL
