// y[i] = f(x[i]) and dx[i] = g[i]·f'(x[i]), by the formulas of core/maths/kinds.h. All threads take
// the branch of one kind.
// A thread takes 8 consecutive elements and computes in f32, whatever the dtypes; y may be x.
// CastInteger copies where x or y is i32 and rounds once.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/kinds.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

struct UnaryParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 8;
  AnyInput x;
  AnyOutput y;
  int64_t count;
  UnaryKind kind;
  float alpha;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(UnaryParams::kThreads, UnaryParams::kMinBlocks)
    Unary(const LORA_GRID_CONSTANT UnaryParams p) {
  const int64_t first = GlobalIndex<UnaryParams::kThreads>() * UnaryParams::kPerThread;
  float values[UnaryParams::kPerThread];
  LoadElements(values, p.x, first, p.count);
  unary::ForKind(p.kind, [&]<class Kind>() {
    LORA_UNROLL
    for (int j = 0; j < UnaryParams::kPerThread; ++j) values[j] = Kind::Value(values[j], p.alpha);
  });
  StoreElements(p.y, first, p.count, values);
}

struct UnaryBackwardParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr int kPerThread = 8;
  AnyInput x, g;
  AnyOutput dx;
  int64_t count;
  UnaryKind kind;
  float alpha;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(UnaryBackwardParams::kThreads, UnaryBackwardParams::kMinBlocks)
    UnaryBackward(const LORA_GRID_CONSTANT UnaryBackwardParams p) {
  const int64_t first =
      GlobalIndex<UnaryBackwardParams::kThreads>() * UnaryBackwardParams::kPerThread;
  float x[UnaryBackwardParams::kPerThread], g[UnaryBackwardParams::kPerThread];
  LoadElements(x, p.x, first, p.count);
  LoadElements(g, p.g, first, p.count);
  unary::ForKind(p.kind, [&]<class Kind>() {
    LORA_UNROLL
    for (int j = 0; j < UnaryBackwardParams::kPerThread; ++j)
      x[j] = Kind::Gradient(x[j], g[j], p.alpha);
  });
  StoreElements(p.dx, first, p.count, x);
}

struct CastIntegerParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  AnyInput x;
  AnyOutput y;
  int64_t count;
};

// Returns an f32 that rounds to every narrower float as the integer itself would: bits that do not
// fit into the f32 set its lowest bit.
LORA_DEVICE float StickyFloat(int32_t value) {
  const uint32_t sign = value < 0 ? 0x80000000u : 0u;
  uint32_t magnitude = sign ? 0u - static_cast<uint32_t>(value) : static_cast<uint32_t>(value);
  if (magnitude >= 1u << 24) magnitude = (magnitude & ~0xffu) | ((magnitude & 0xffu) ? 0x100u : 0u);
  return BitsToFloat(FloatToBits(static_cast<float>(magnitude)) | sign);
}
// Truncates towards zero and clamps to the range of int32_t; NaN gives 0.
LORA_DEVICE int32_t IntegerOf(float value) {
  if (!(value == value)) return 0;
  if (value <= -2147483648.0f) return -2147483647 - 1;
  if (value >= 2147483648.0f) return 2147483647;
  return static_cast<int32_t>(value);
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(CastIntegerParams::kThreads, CastIntegerParams::kMinBlocks)
    CastInteger(const LORA_GRID_CONSTANT CastIntegerParams p) {
  const int64_t i = GlobalIndex<CastIntegerParams::kThreads>();
  if (i >= p.count) return;
  if (p.x.dtype != DType::kI32) {
    static_cast<int32_t*>(p.y.data)[i] = IntegerOf(LoadElement(p.x, i));
    return;
  }
  const int32_t value = static_cast<const int32_t*>(p.x.data)[i];
  if (p.y.dtype == DType::kF32) {
    static_cast<float*>(p.y.data)[i] = static_cast<float>(value);
  } else if (p.y.dtype == DType::kBF16) {
    static_cast<BF16*>(p.y.data)[i] = FromFloat<BF16>(StickyFloat(value));
  } else {
    static_cast<F16*>(p.y.data)[i] = FromFloat<F16>(StickyFloat(value));
  }
}

}  // namespace lora::device
