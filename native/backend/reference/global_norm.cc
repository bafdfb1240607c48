// norm = √(Σ x²) over all tensors
// clip:  x ← x·min(1, max_norm/(norm + 1e-6)), and NaN everywhere where the norm is not finite
#include <cmath>
#include <limits>

#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const GlobalNormArgs& args, Scratch, Context&) {
  double sum = 0;
  for (const TensorView& tensor : args.tensors) {
    for (int64_t i = 0; i < tensor.numel(); ++i) sum += Load(tensor, i) * Load(tensor, i);
  }
  Store(args.norm, 0, std::sqrt(sum));
}

void Run(const ClipByNormArgs& args, Scratch, Context&) {
  const double norm = Load(args.norm, 0), factor = args.max_norm / (norm + 1e-6);
  const double scale =
      std::isfinite(norm) ? std::fmin(1.0, factor) : std::numeric_limits<double>::quiet_NaN();
  for (const TensorView& tensor : args.tensors) {
    for (int64_t i = 0; i < tensor.numel(); ++i) Store(tensor, i, Load(tensor, i) * scale);
  }
}

template PlannedCall Plan(const GlobalNormArgs&, int);
template PlannedCall Plan(const ClipByNormArgs&, int);
}  // namespace lora::reference
