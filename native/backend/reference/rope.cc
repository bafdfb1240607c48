// Rotates x [b, s, heads, d]. With x1, x2 the halves of a head and cos, sin of its position:
//   y1 = x1·cos − x2·sin
//   y2 = x2·cos + x1·sin
// The inverse uses −sin.
#include "backend/reference/kernels.h"
#include "core/error.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const RopeArgs& args, Scratch, Context&) {
  const int64_t heads = args.x.dim(2), half = args.x.dim(3) / 2;
  const int64_t tokens = args.x.dim(0) * args.x.dim(1), table = args.cos.dim(0);
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t position =
        args.positions ? args.positions.as<int32_t>()[token] : args.offset + token % args.x.dim(1);
    if (position < 0 || position >= table) {
      Throw("ERR_DATA", "rope", "expected positions from 0 to ", table - 1, " but received ",
            position);
    }
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t c = 0; c < half; ++c) {
        const int64_t first = (token * heads + head) * 2 * half + c, second = first + half;
        const double cosine = Load(args.cos, position * half + c);
        const double sine = Load(args.sin, position * half + c) * (args.inverse ? -1 : 1);
        const double x1 = Load(args.x, first), x2 = Load(args.x, second);  // y may be x
        Store(args.y, first, x1 * cosine - x2 * sine);
        Store(args.y, second, x2 * cosine + x1 * sine);
      }
    }
  }
}

}  // namespace lora::reference
