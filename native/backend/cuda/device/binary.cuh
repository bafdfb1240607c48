// y = a ∘ b with broadcasting. y is rows of `inner` elements, along which each operand is one run
// or one element. A thread computes 8 consecutive elements of a row in f32, whatever the dtypes. y
// may be an operand of its own shape.
//
// PowerOfElements: the same, an element per thread, because a power takes long.
#pragma once

#include <type_traits>

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/kinds.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/nest.cuh"

namespace lora::device {

struct BinaryParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 8;
  AnyInput a, b;
  AnyOutput y;
  BinaryKind kind;
  int64_t rows, inner;
  bool a_repeats, b_repeats;  // along a row
  Nest<2> outer;              // where a row of a and b begins
  LORA_HOST_DEVICE int64_t chunks() const { return (inner + kPerThread - 1) / kPerThread; }
};

template <int N>
LORA_DEVICE void LoadOperand(float (&values)[N], const AnyInput& x, bool repeats, int64_t begin,
                             int64_t first, int64_t count) {
  if (repeats) {
    const float value = LoadElement(x, begin);
    LORA_UNROLL
    for (int j = 0; j < N; ++j) values[j] = value;
  } else {
    LoadElements(values, x, begin + first, begin + count);
  }
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(BinaryParams::kThreads, BinaryParams::kMinBlocks)
    Binary(const LORA_GRID_CONSTANT BinaryParams p) {
  const auto [row, chunk] = Divide(GlobalIndex<BinaryParams::kThreads>(), p.chunks());
  if (row >= p.rows) return;
  int64_t begin[2] = {0, 0};
  AddOffsets(p.outer, row, begin);
  const int64_t first = chunk * BinaryParams::kPerThread;
  float a[BinaryParams::kPerThread], b[BinaryParams::kPerThread];
  LoadOperand(a, p.a, p.a_repeats, begin[0], first, p.inner);
  LoadOperand(b, p.b, p.b_repeats, begin[1], first, p.inner);
  binary::ForKind(p.kind, [&]<class Kind>() {
    if constexpr (!std::is_same_v<Kind, binary::Pow>) {
      LORA_UNROLL
      for (int j = 0; j < BinaryParams::kPerThread; ++j) a[j] = Kind::Value(a[j], b[j]);
    }
  });
  const int64_t y = row * p.inner;
  StoreElements(p.y, y + first, y + p.inner, a);
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(BinaryParams::kThreads, BinaryParams::kMinBlocks)
    PowerOfElements(const LORA_GRID_CONSTANT BinaryParams p) {
  const int64_t index = GlobalIndex<BinaryParams::kThreads>();
  const auto [row, column] = Divide(index, p.inner);
  if (row >= p.rows) return;
  int64_t begin[2] = {0, 0};
  AddOffsets(p.outer, row, begin);
  const float a = LoadElement(p.a, begin[0] + (p.a_repeats ? 0 : column));
  const float b = LoadElement(p.b, begin[1] + (p.b_repeats ? 0 : column));
  StoreElement(p.y, index, binary::Pow::Value(a, b));
}

}  // namespace lora::device
