// Passes many f32 tensors to one launch: their pointers travel in the kernel's parameters, and each
// block finds its piece by its number.
#pragma once

#include "backend/cuda/device/launch.h"

namespace lora::device {

// A segment is kTensors parallel tensors of one size (parameter, gradient, …).
template <int kTensors>
struct PlainSegment {
  float* data[kTensors];
  int64_t count;
};

// A launch takes up to kCapacity segments, because parameters of a kernel are 4 KiB at most. A
// struct that holds a list must not have padding after it: where GCC 12 clears padding after an
// array (-ftrivial-auto-var-init, the emulator's build), it clears bytes of the array instead.
template <class SegmentOfList, int kCapacity>
struct SegmentList {
  static_assert(kCapacity % 2 == 0);
  static constexpr int kMax = kCapacity;
  using Segment = SegmentOfList;
  Segment segments[kCapacity];
  uint32_t first_block[kCapacity];
  int64_t size;
};

// A block works on elements [begin, end) of segment `index`.
struct Piece {
  int index;
  int64_t begin, end;
};

// Blocks of kPerBlock elements are numbered through the segments, none of which is empty.
template <int kPerBlock, class List>
LORA_DEVICE Piece PieceOf(const List& list, uint32_t block) {
  int low = 0, high = static_cast<int>(list.size);  // first_block[low] <= block < first_block[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (list.first_block[middle] <= block ? low : high) = middle;
  }
  const int64_t begin = int64_t{block - list.first_block[low]} * kPerBlock;
  const int64_t count = list.segments[low].count;
  return {low, begin, count - begin < kPerBlock ? count : begin + kPerBlock};
}

}  // namespace lora::device
