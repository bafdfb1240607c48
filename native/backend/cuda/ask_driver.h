// Asks this machine about CUDA: the CUDA runtime, the driver's kernel module and libcuda.
#pragma once

#include "backend/cuda/driver.h"

namespace lora::cuda {

// Never throws: what cannot be found out stays empty.
DriverState AskDriver();

}  // namespace lora::cuda
