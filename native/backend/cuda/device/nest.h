// Loops over the dimensions of tensors with different strides. ../nest.h builds them and
// nest.cuh walks them.
#pragma once

#include <cstdint>

namespace lora::device {

template <int kOperands>
struct Nest {
  static constexpr int kMax = 8;
  int rank = 0;  // outermost first
  int64_t dims[kMax] = {};
  int64_t strides[kOperands][kMax] = {};
};

}  // namespace lora::device
