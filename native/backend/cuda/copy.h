// Moves elements without converting them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/ops/backend.h"

namespace lora::cuda {

// Copies rows of `run` elements of `size` bytes (1, 2, 4 or 8). Pitches count elements. src and
// dst must not overlap.
struct RowCopy {
  const void* src;
  void* dst;
  int64_t src_pitch, dst_pitch, rows, run;
  size_t size;
};
void CopyRows(const char* op, const RowCopy& copy, Context& context);

inline void CopyElements(const char* op, const void* src, void* dst, int64_t count, size_t size,
                         Context& context) {
  CopyRows(op, {src, dst, count, count, 1, count, size}, context);
}

}  // namespace lora::cuda
