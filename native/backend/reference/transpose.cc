// Dimension d of y is dimension perm[d] of x.
#include <array>
#include <cstring>

#include "backend/reference/kernels.h"

namespace lora::reference {

void Run(const TransposeArgs& args, Scratch, Context&) {
  const int rank = args.x.shape.rank();
  std::array<int64_t, kMaxDims> stride{};  // of x
  for (int d = rank - 1, step = 0; d >= 0; --d, ++step) {
    const size_t at = static_cast<size_t>(d);
    stride[at] = step == 0 ? 1 : stride[at + 1] * args.x.dim(d + 1);
  }
  const size_t size = SizeOf(args.x.dtype);
  for (int64_t i = 0; i < args.y.numel(); ++i) {
    int64_t rest = i, from = 0;
    for (int d = rank - 1; d >= 0; --d) {
      from += rest % args.y.dim(d) * stride[static_cast<size_t>(args.perm[static_cast<size_t>(d)])];
      rest /= args.y.dim(d);
    }
    std::memcpy(args.y.as<char>() + static_cast<size_t>(i) * size,
                args.x.as<char>() + static_cast<size_t>(from) * size, size);
  }
}

template PlannedCall Plan(const TransposeArgs&, int);
}  // namespace lora::reference
