// Reductions over lanes and threads in an order that depends only on their number, so that every
// run gives the same bits. Every lane (thread) that takes part gets the result.
//
// A warp uses a butterfly of shuffles: at each level both partners combine the same two values with
// a commutative op, so all lanes end with the same bits. A block's warps leave their results in
// shared memory, and every warp combines those in the same order.
#pragma once

#include "backend/cuda/device/primitives.h"

namespace lora::device {

// Where a NaN must not be lost, take it from a sum and not from a maximum: a maximum starts at −∞
// and never takes a NaN (as std::max(largest, x) takes none).
struct Sum {
  template <class T>
  LORA_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  LORA_DEVICE T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

// The larger value, or of equal values the lower index.
struct Indexed {
  float value;
  int32_t index;
};
struct MaxIndexed {
  LORA_DEVICE Indexed operator()(Indexed a, Indexed b) const {
    const bool takes_b = a.value < b.value || (a.value == b.value && b.index < a.index);
    return {takes_b ? b.value : a.value, takes_b ? b.index : a.index};
  }
};

LORA_DEVICE float Butterfly(float v, int mask) { return ShuffleXor(v, mask); }
LORA_DEVICE int32_t Butterfly(int32_t v, int mask) { return ShuffleXor(v, mask); }
LORA_DEVICE uint32_t Butterfly(uint32_t v, int mask) { return ShuffleXor(v, mask); }
LORA_DEVICE uint64_t Butterfly(uint64_t v, int mask) {
  const uint32_t low = ShuffleXor(static_cast<uint32_t>(v), mask);
  const uint32_t high = ShuffleXor(static_cast<uint32_t>(v >> 32), mask);
  return uint64_t{high} << 32 | low;
}
LORA_DEVICE double Butterfly(double v, int mask) {
  return BitsToDouble(Butterfly(DoubleToBits(v), mask));
}
LORA_DEVICE Indexed Butterfly(Indexed v, int mask) {
  const float value = ShuffleXor(v.value, mask);
  const int32_t index = ShuffleXor(v.index, mask);
  return {value, index};
}

LORA_DEVICE int32_t FromLane(int32_t v, int lane) { return Shuffle(v, lane); }
LORA_DEVICE uint64_t FromLane(uint64_t v, int lane) {
  const uint32_t low = Shuffle(static_cast<uint32_t>(v), lane);
  const uint32_t high = Shuffle(static_cast<uint32_t>(v >> 32), lane);
  return uint64_t{high} << 32 | low;
}
LORA_DEVICE double FromLane(double v, int lane) {
  return BitsToDouble(FromLane(DoubleToBits(v), lane));
}

// Reduces over groups of kLanes (a power of two up to 32) consecutive lanes. All
// 32 lanes must call.
template <int kLanes = 32, class T, class Op>
LORA_DEVICE T WarpReduce(T value, Op op) {
  static_assert(kLanes >= 1 && kLanes <= 32 && (kLanes & (kLanes - 1)) == 0);
  LORA_UNROLL
  for (int mask = kLanes / 2; mask > 0; mask /= 2) value = op(value, Butterfly(value, mask));
  return value;
}
template <int kLanes = 32, class T>
LORA_DEVICE T WarpSum(T value) {
  return WarpReduce<kLanes>(value, Sum());
}
template <int kLanes = 32, class T>
LORA_DEVICE T WarpMax(T value) {
  return WarpReduce<kLanes>(value, Max());
}

// Reduces over the kThreads (a power of two) threads of the block, all of which must call. `slots`
// are kThreads / 32 values in shared memory, which may be used again at once.
template <int kThreads, class T, class Op>
LORA_DEVICE T BlockReduce(T value, T* slots, Op op) {
  constexpr int kWarps = kThreads / 32;
  static_assert(kThreads % 32 == 0 && (kWarps & (kWarps - 1)) == 0 && kWarps <= 32);
  value = WarpReduce(value, op);
  if constexpr (kWarps > 1) {
    if (LaneIndex() == 0) slots[WarpIndex()] = value;
    SyncThreads();
    value = WarpReduce<kWarps>(slots[LaneIndex() % kWarps], op);
    SyncThreads();
  }
  return value;
}
template <int kThreads, class T>
LORA_DEVICE T BlockSum(T value, T* slots) {
  return BlockReduce<kThreads>(value, slots, Sum());
}
template <int kThreads, class T>
LORA_DEVICE T BlockMax(T value, T* slots) {
  return BlockReduce<kThreads>(value, slots, Max());
}

// Sums over the threads of a row, a warp or the whole block, all of which must call. `shared` has a
// float for each warp.
template <int kThreadsPerRow>
LORA_DEVICE float RowSum(float value, unsigned char* shared) {
  if constexpr (kThreadsPerRow == 32) return WarpSum(value);
  return BlockSum<kThreadsPerRow>(value, reinterpret_cast<float*>(shared));
}

// Returns the sum of this lane's value and those of all lanes before it.
template <class T>
LORA_DEVICE T WarpPrefixSum(T value) {
  LORA_UNROLL
  for (int distance = 1; distance < 32; distance *= 2) {
    const int from = LaneIndex() - distance;
    const T before = FromLane(value, from < 0 ? 0 : from);
    if (from >= 0) value = before + value;
  }
  return value;
}
template <class T>
struct Prefix {
  T before, total;  // the sum of the threads before this one, and of all
};
// All threads must call, and slots may be used again at once, as with BlockReduce.
template <int kThreads, class T>
LORA_DEVICE Prefix<T> BlockPrefixSum(T value, T* slots) {
  constexpr int kWarps = kThreads / 32;
  static_assert(kThreads % 32 == 0 && (kWarps & (kWarps - 1)) == 0 && kWarps <= 32);
  const T to_here = WarpPrefixSum(value);
  const T before_here = FromLane(to_here, LaneIndex() == 0 ? 0 : LaneIndex() - 1);
  if (LaneIndex() == 31) slots[WarpIndex()] = to_here;
  SyncThreads();
  const T warps = WarpPrefixSum(LaneIndex() < kWarps ? slots[LaneIndex() % kWarps] : T{});
  SyncThreads();
  const T before_warp = FromLane(warps, WarpIndex() == 0 ? 0 : WarpIndex() - 1);
  Prefix<T> prefix{T{}, FromLane(warps, kWarps - 1)};
  if (WarpIndex() > 0) prefix.before = before_warp;
  if (LaneIndex() > 0) prefix.before = prefix.before + before_here;
  return prefix;
}

}  // namespace lora::device
