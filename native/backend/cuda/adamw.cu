#include "backend/cuda/kernels.h"
#include "backend/cuda/step.h"

namespace lora::cuda {

void Run(const AdamWArgs& args, Scratch, Context& context) {
  RunStep(args, device::AdamWRule{FactorsOf(args)}, context);
}

template PlannedCall Plan(const AdamWArgs&, int);
}  // namespace lora::cuda
