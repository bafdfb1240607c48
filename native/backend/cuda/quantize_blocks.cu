#include "backend/cuda/kernels.h"
#include "core/error.h"

namespace lora::cuda {

PlannedCall PlanCall(const QuantizeBlocksArgs&, int) {
  Throw("ERR_UNSUPPORTED", "quantize_blocks", "blocks are written on the CPU, not on a GPU");
}

template PlannedCall Plan(const QuantizeBlocksArgs&, int);
}  // namespace lora::cuda
