// Splits the segments of an optimizer's step over threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "backend/cpu/runtime/parallel.h"

namespace lora::cpu {

// Calls fn(segment, begin, end) for ranges of each segment's units, which units_of(segment) counts.
// The units of all segments together are split evenly over the threads; `grain` and `align` are
// those of ForRange.
template <class Segment, class UnitsFn, class Fn>
void ForSegments(Context& context, const std::vector<Segment>& segments, size_t grain, size_t align,
                 const UnitsFn& units_of, const Fn& fn) {
  size_t total = 0;
  for (const Segment& segment : segments) total += units_of(segment);
  ForRange(context, total, grain, align, [&](size_t begin, size_t end) {
    size_t first = 0;  // index of the segment's first unit among those of all segments
    for (const Segment& segment : segments) {
      const size_t last = first + units_of(segment);
      const size_t from = std::max(first, begin), to = std::min(last, end);
      if (from < to) fn(segment, from - first, to - first);
      first = last;
    }
  });
}

// Does so with the elements of the parameters as units, for a step that moves only memory.
template <class Segment, class Fn>
void ForElements(Context& context, const std::vector<Segment>& segments, const Fn& fn) {
  ForSegments(
      context, segments, kCheapGrain / 4, kLineElements,
      [](const Segment& segment) { return static_cast<size_t>(segment.param.numel()); }, fn);
}

}  // namespace lora::cpu
