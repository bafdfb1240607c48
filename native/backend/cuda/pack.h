#pragma once

#include <cstddef>
#include <cstdint>

#include "core/maths/weight_format.h"

namespace lora::cuda {

// W stays row-major, with its scales behind it, and one copy serves both directions, because the
// GEMMs read either one.
size_t PackedBytes(int64_t rows, int64_t cols, WeightFormat format);

}  // namespace lora::cuda
