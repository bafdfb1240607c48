// Loops over the dimensions of tensors with different strides. ../nest.h builds them and
// nest.cuh walks them.
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
