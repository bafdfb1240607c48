#include "backend/cuda/kernels.h"
#include "backend/cuda/step.h"

namespace lora::cuda {

void Run(const SgdArgs& args, Scratch, Context& context) {
  const SgdFactors factors = FactorsOf(args);
  if (args.has_velocity()) {
    RunStep(args, device::SgdRule<true>{factors}, context);
  } else {
    RunStep(args, device::SgdRule<false>{factors}, context);
  }
}

template PlannedCall Plan(const SgdArgs&, int);
}  // namespace lora::cuda
