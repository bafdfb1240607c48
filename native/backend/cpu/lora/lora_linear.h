// What the two phases of lora_linear's forward share (lora_linear.cc, lora_linear_decode.cc).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/cpu/product/panels.h"
#include "backend/cpu/runtime/context.h"
#include "core/ops/ops.h"

namespace lora::cpu {

// A call of phase kAuto is a decode step up to this many rows.
constexpr int64_t kFewRows = 4;

// Every row is computed as it would be alone, and W comes from memory once. All branches of a call
// multiply whole numbers, or none does.
PlannedCall PlanDecode(const LoraLinearForwardArgs& args, int threads);

// The largest rank that a branch can have: of its own up and down, or of the table.
inline size_t MaxRankOf(const LoraLinearForwardArgs& args, const LoraBranch& branch) {
  if (branch.up) return static_cast<size_t>(branch.up.dim(1));
  return branch.site == LoraBranch::kNoSite ? 0 : static_cast<size_t>(args.table.max_rank);
}

// Returns the end of the rows from `begin` on that have one slot, or the last row without a table.
inline size_t EndOfSlot(const LoraLinearForwardArgs& args, size_t begin) {
  const size_t m = static_cast<size_t>(args.x.dim(0));
  if (!args.table) return m;
  const int32_t* slots = args.slots.as<int32_t>();
  size_t end = begin + 1;
  while (end < m && slots[end] == slots[begin]) ++end;
  return end;
}

inline std::byte* RowOf(const TensorView& view, size_t row) {
  return view.as<std::byte>() + row * static_cast<size_t>(view.dim(1)) * SizeOf(view.dtype);
}

// Returns the rows of a view from `row` on as the product reads them.
inline RowsOfX RowsFrom(const TensorView& view, size_t row) {
  const size_t columns = static_cast<size_t>(view.dim(1));
  return {RowOf(view, row), view.dtype == DType::kBF16, columns, columns};
}

inline bool Keeps(const std::vector<TensorView>& views, size_t i) {
  return i < views.size() && views[i].defined;
}

inline bool MultipliesWholeNumbers(const LoraBranch& branch) {
  return branch.activations == Activations::kInt8 && HasWholeCodes(branch.weight.format);
}

// Whether some W is kept in another format than that of the product.
inline bool HasExpandedWeight(const LoraLinearForwardArgs& args) {
  return std::ranges::any_of(args.branches, [](const LoraBranch& branch) {
    return branch.weight.format != FormatOf(branch.weight.dtype);
  });
}

}  // namespace lora::cpu
