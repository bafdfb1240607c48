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

// The most bytes of values that the weights of a call of many rows have beside each other: gate and
// up of a 7B model have more in bf16. LORA_CUDA_EXPANSION_BYTES sets others.
inline constexpr size_t kExpansionBytes = size_t{128} << 20;

// Tells whether weights are expanded one after the other, each right before the product that reads
// it: where they have more values than that together.
bool ExpandsInTurn(const std::vector<PackedView>& weights);

// The weights of a call that are expanded. Each has its own scratch, because the products of a call
// share launches, or all have the same and are expanded in turn.
class Expansions {
 public:
  Expansions() = default;
  // All of these, which are then added, share the place of the largest.
  Expansions(const std::vector<PackedView>& weights, ScratchArena& arena);
  // Returns where products read w: in the arena, once it has been expanded, or as it is stored.
  const void* Add(const PackedView& w, ScratchArena& arena);
  // Expands all that have been added.
  void Run(const char* op, Context& context) const;
  // Expands number i of them, over those before it where they share a place.
  void RunOne(const char* op, size_t i, Context& context) const;

 private:
  struct Expansion {
    PackedView w;
    void* to;  // null where it is read as it is stored
  };
  std::vector<Expansion> all_;
  bool shares_ = false;
  void* shared_ = nullptr;
};

}  // namespace lora::cuda
