// The kernels of this binary, as addresses that the CUDA runtime knows. Apart from launch.h, so
// that files without device code can ask.
#pragma once

#include <vector>

namespace lora::device {

// Every kernel that this binary can launch. A device loads them all when it is opened, so that no
// launch has to.
inline std::vector<const void*>& Kernels() {
  static auto& kernels = *new std::vector<const void*>;  // a device may open while the process ends
  return kernels;
}

}  // namespace lora::device
