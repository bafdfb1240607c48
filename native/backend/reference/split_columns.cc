// parts[i] = the columns of x from Σ sizes[..i] on, and the inverse.
#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const SplitColumnsArgs& args, Scratch, Context&) {
  const int64_t columns = args.x.dim(1);
  int64_t begin = 0;
  for (size_t p = 0; p < args.sizes.size(); ++p) {
    const TensorView& part = args.parts[p];
    const int64_t size = args.sizes[p];
    for (int64_t i = 0; i < part.numel(); ++i)
      Store(part, i, Load(args.x, i / size * columns + begin + i % size));
    begin += size;
  }
}

void Run(const JoinColumnsArgs& args, Scratch, Context&) {
  const int64_t rows = args.y.dim(0), columns = args.y.dim(1);
  int64_t begin = 0;
  for (size_t p = 0; p < args.sizes.size(); ++p) {
    const int64_t size = args.sizes[p];
    for (int64_t i = 0; i < rows * size; ++i) {
      Store(args.y, i / size * columns + begin + i % size,
            args.parts[p] ? Load(args.parts[p], i) : 0);
    }
    begin += size;
  }
}

template PlannedCall Plan(const SplitColumnsArgs&, int);
template PlannedCall Plan(const JoinColumnsArgs&, int);
}  // namespace lora::reference
