// Rotates x [b, s, heads, d], which is q or k. With x1, x2 the first and the second w numbers of a
// head and cos, sin [w] of its position:
//   y1 = x1·cos − x2·sin
//   y2 = x2·cos + x1·sin
// The inverse uses −sin. What is behind x2 is copied.
#include "backend/reference/kernels.h"
#include "backend/reference/rotation.h"
#include "core/error.h"

namespace lora::reference {

void Run(const RopeArgs& args, Scratch, Context&) {
  const int64_t sequence = args.q.dim(1), tokens = args.q.dim(0) * sequence, d = args.q.dim(3);
  const int64_t table = args.cos.dim(0);
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t position =
        args.positions ? args.positions.as<int32_t>()[token] : args.offset + token % sequence;
    if (position < 0 || position >= table) {
      Throw("ERR_DATA", "rope", "expected positions from 0 to ", table - 1, " but received ",
            position);
    }
    const Rotation rotation{args.cos, args.sin, position, args.inverse};
    const auto rotate = [&](const TensorView& x, const TensorView& y) {
      const int64_t heads = x.dim(2);
      for (int64_t head = token * heads; head < (token + 1) * heads; ++head)
        rotation.Turn(x, head * d, y, head * d);
    };
    rotate(args.q, args.rotated_q);
    if (args.k) rotate(args.k, args.rotated_k);
  }
}

template PlannedCall Plan(const RopeArgs&, int);
}  // namespace lora::reference
