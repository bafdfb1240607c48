// Expands weights in a quantized format. Products read them in scratch then, where they are
// operands like any other.
#pragma once

#include <vector>

#include "backend/cuda/scratch.h"
#include "core/maths/ceil_div.h"
#include "core/ops/tensor_view.h"

namespace lora::cuda {

// to [rows, cols] of w.dtype ← the values of w, which is quantized.
void Expand(const char* op, const PackedView& w, void* to, Context& context);
// to [count, cols] ← rows ids[i] of it.
void ExpandRows(const char* op, const PackedView& w, const int32_t* ids, int64_t count, void* to,
                Context& context);

// to [count, cols] ← rows first, first + 1, … of it. `first` is a multiple of kBlockValues, so that
// no block and no run of a scale is cut.
void ExpandRange(const char* op, const PackedView& w, int64_t first, int64_t count, void* to,
                 Context& context);

// Bytes before the codebook of a format with blocks, where it has one.
inline size_t PointsAt(WeightFormat format, int64_t rows, int64_t cols) {
  return RoundUp(static_cast<size_t>(ValueBytes(format, rows, cols)), sizeof(uint16_t));
}

// Bytes of scratch for the values of w: none where products read it as it is stored.
inline size_t ExpandedBytes(const PackedView& w) {
  return IsQuantized(w.format) ? static_cast<size_t>(w.rows * w.cols) * SizeOf(w.dtype) : 0;
}
// The dtype in which products read w.
inline DType OperandDType(const PackedView& w) {
  return IsQuantized(w.format) ? w.dtype : StoredDType(w.format);
}

// The weights of a call that are expanded. Each has its own scratch, because the products of a call
// share launches, and the order of sums must be the one that they have for other formats.
class Expansions {
 public:
  // Returns where products read w: in the arena, once Run() has expanded it, or as it is stored.
  const void* Add(const PackedView& w, ScratchArena& arena);
  void Run(const char* op, Context& context) const;

 private:
  struct Expansion {
    PackedView w;
    void* to;
  };
  std::vector<Expansion> all_;
};

}  // namespace lora::cuda
