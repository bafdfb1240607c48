// Splits elementwise work over the threads of a context.
#pragma once

#include <algorithm>
#include <cstddef>

#include "backend/cpu/runtime/context.h"
#include "core/maths/ceil_div.h"

namespace lora::cpu {

// Calls fn(begin, end) for parts of [0, count). Each part has at least `grain` elements, so that
// waking a thread pays, and begins at a multiple of `align`. Results must not depend on the cuts.
template <class Fn>
void ForRange(Context& context, size_t count, size_t grain, size_t align, const Fn& fn) {
  auto& cpu = static_cast<CpuContext&>(context);
  const size_t threads = static_cast<size_t>(cpu.threads());
  const size_t parts = std::clamp<size_t>(count / std::max<size_t>(grain, 1), 1, threads);
  const size_t units = CeilDiv(count, align);
  cpu.ParallelFor(parts, [&](size_t part, size_t) {
    const Range range = Split(units, parts, part);
    const size_t begin = range.begin * align, end = std::min(range.end * align, count);
    if (begin < end) fn(begin, end);
  });
}

constexpr size_t kLineElements = 64;   // a multiple of a cache line whatever the dtype
constexpr size_t kCheapGrain = 32768;  // elements of an op that only moves memory
constexpr size_t kCostlyGrain = 4096;  // elements of an op with an exp in it

// Calls fn(begin, end) for ranges of rows of `width` elements.
template <class Fn>
void ForRows(Context& context, size_t rows, size_t width, size_t grain_elements, const Fn& fn) {
  ForRange(context, rows, grain_elements / std::max<size_t>(width, 1) + 1, 1, fn);
}

}  // namespace lora::cpu
