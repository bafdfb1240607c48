// y[.., i, j] = Σ over l of a[.., i, l]·b[.., l, j]
// trans_a and trans_b transpose the operands first; leading dimensions broadcast.
#include "backend/reference/broadcast.h"
#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {
namespace {

// Returns all dimensions but the last two.
Shape Leading(const Shape& shape) {
  Shape leading;
  for (int d = 0; d < shape.rank() - 2; ++d) leading.push_back(shape[d]);
  return leading;
}

}  // namespace

void Run(const MatmulArgs& args, Scratch, Context&) {
  const Shape lead = Leading(args.y.shape);
  const int64_t m = args.y.dim(-2), n = args.y.dim(-1), k = args.a.dim(args.trans_a ? -2 : -1);
  for (int64_t batch = 0; batch < lead.numel(); ++batch) {
    const int64_t a = BroadcastIndex(Leading(args.a.shape), lead, batch) * m * k;
    const int64_t b = BroadcastIndex(Leading(args.b.shape), lead, batch) * k * n;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t l = 0; l < k; ++l) {
          sum += Load(args.a, a + (args.trans_a ? l * m + i : i * k + l)) *
                 Load(args.b, b + (args.trans_b ? j * k + l : l * n + j));
        }
        Store(args.y, (batch * m + i) * n + j, sum);
      }
    }
  }
}

template PlannedCall Plan(const MatmulArgs&, int);
}  // namespace lora::reference
