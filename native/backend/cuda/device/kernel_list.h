// Lists the kernels of this binary by addresses that the CUDA runtime knows. It is apart from
// launch.h so that files without device code can include it.
#pragma once

#include <vector>

namespace lora::device {

// Returns every kernel that this binary can launch. A device loads them all when it is opened, so
// that no launch has to.
inline std::vector<const void*>& Kernels() {
  static auto& kernels = *new std::vector<const void*>;  // a device may open while the process ends
  return kernels;
}

}  // namespace lora::device
