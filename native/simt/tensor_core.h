// The sums of tensor cores, as the emulated mma.sync has them.
#pragma once

#include "simt/numerics.h"

namespace lora::simt {

// Adds x·y to z as mma.sync m16n8k16 does for 16-bit operands, which come as floats: x [16, 16],
// y [16, 8], z [16, 8]. `f16` tells how small their exponents get.
void MultiplyAdd(const float (&x)[16][16], const float (&y)[16][8], float (&z)[16][8], bool f16,
                 TensorCore model);

}  // namespace lora::simt
