// Values of matrices in block formats (weight_format.h), on the host.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/maths/weight_format.h"

namespace lora {

// Neighboring values of a block that share a scale in every format, and the most that it has.
constexpr int kGroupValues = 16, kMaxBlockValues = 256;

// to [16·count] ← groups [first, first + count) of a row, whose blocks are `stride` bytes apart.
void DecodeGroups(WeightFormat format, const uint8_t* row, size_t stride, size_t first,
                  size_t count, float* to);

// Returns value i of a matrix of blocks.
float BlockValue(WeightFormat format, const uint8_t* blocks, int64_t i);

}  // namespace lora
