#include "backend/cuda/kernels.h"
#include "backend/cuda/step.h"

namespace lora::cuda {

void Run(const LionArgs& args, Scratch, Context& context) {
  RunStep(args, device::LionRule{FactorsOf(args)}, context);
}

template PlannedCall Plan(const LionArgs&, int);
}  // namespace lora::cuda
