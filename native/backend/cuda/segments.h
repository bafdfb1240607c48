// Builds lists of tensors for the kernels that take many in one launch. Only .cu
// files include this.
#pragma once

#include <cstdint>

#include "backend/cuda/device/segments.cuh"
#include "core/maths/ceil_div.h"

namespace lora::cuda {

inline int64_t BlocksOf(int64_t count, int64_t per_block) { return CeilDiv(count, per_block); }

// Calls launch(list, blocks) as often as the segments need launches. segment(i) returns a
// List::Segment; empty segments are left out.
template <class List, int kPerBlock, class SegmentFn, class LaunchFn>
void ForSegmentLists(size_t count, const SegmentFn& segment, const LaunchFn& launch) {
  List list{};
  int64_t blocks = 0;
  const auto flush = [&] {
    if (list.size > 0) launch(list, blocks);
    list = List{};
    blocks = 0;
  };
  for (size_t i = 0; i < count; ++i) {
    const typename List::Segment s = segment(i);
    if (s.count == 0) continue;
    const int64_t more = BlocksOf(s.count, kPerBlock);
    if (list.size == List::kMax || blocks + more > INT32_MAX) flush();
    list.segments[list.size] = s;
    list.first_block[list.size] = static_cast<uint32_t>(blocks);
    ++list.size;
    blocks += more;
  }
  flush();
}

}  // namespace lora::cuda
