// Rotates one head to its position; rope.cc has the formula.
#pragma once

#include "core/ops/element.h"

namespace lora::reference {

struct Rotation {
  const TensorView &cos, &sin;  // [positions, w]
  int64_t position;
  bool inverse = false;

  // Reads the head that begins at element `from` of x, and writes it at `to` of y. They may be the
  // same.
  void Turn(const TensorView& x, int64_t from, const TensorView& y, int64_t to) const {
    const int64_t pairs = cos.dim(1), d = x.dim(3);
    for (int64_t c = 0; c < pairs; ++c) {
      const double cosine = Load(cos, position * pairs + c);
      const double sine = Load(sin, position * pairs + c) * (inverse ? -1 : 1);
      const double x1 = Load(x, from + c), x2 = Load(x, from + pairs + c);
      Store(y, to + c, x1 * cosine - x2 * sine);
      Store(y, to + pairs + c, x2 * cosine + x1 * sine);
    }
    for (int64_t c = 2 * pairs; c < d; ++c) Store(y, to + c, Load(x, from + c));
  }
};

}  // namespace lora::reference
