// Lists the kernels of this binary by addresses that the CUDA runtime knows. It is apart from
// launch.h so that files without device code can include it.
#pragma once

#include <cstddef>
#include <vector>

namespace lora::device {

// Returns every kernel that this binary can launch. A kernel's place in the list names it
// (Gpu::LoadKernel).
inline std::vector<const void*>& Kernels() {
  static auto& kernels = *new std::vector<const void*>;  // a device may open while the process ends
  return kernels;
}

}  // namespace lora::device
