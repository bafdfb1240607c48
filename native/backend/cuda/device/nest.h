// Loops over the dimensions of tensors that lie differently in memory. Made by ../nest.h, walked by
// nest.cuh.
#pragma once

#include <cstdint>

namespace lora::device {

template <int kOperands>
struct Nest {
  static constexpr int kMost = 8;
  int rank = 0;  // outermost first
  int64_t dims[kMost] = {};
  int64_t strides[kOperands][kMost] = {};
};

}  // namespace lora::device
