// Asks this machine about CUDA: the CUDA runtime, the driver's kernel module and libcuda.
#pragma once

#include <vector>

#include "backend/cuda/driver.h"

namespace lora::cuda {

// Never throws: what cannot be found out stays empty.
DriverState AskDriver();
// Returns the devices that kernels run on, as they were when they were first asked for.
const std::vector<DriverDevice>& Devices();

}  // namespace lora::cuda
