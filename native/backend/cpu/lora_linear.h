// What the two phases of lora_linear's forward share (lora_linear.cc, lora_linear_decode.cc).
#pragma once

#include <algorithm>
#include <cstddef>

#include "backend/cpu/context.h"
#include "core/ops/ops.h"

namespace lora::cpu {

// A call of phase kAuto is a decode step up to this many rows.
constexpr int64_t kFewRows = 4;

// Every row is computed as it would be alone, and W comes from memory once.
size_t DecodeScratchBytes(const LoraLinearForwardArgs& args, int threads);
void Decode(const LoraLinearForwardArgs& args, Scratch scratch, CpuContext& context);

inline std::byte* RowOf(const TensorView& view, size_t row) {
  return view.as<std::byte>() + row * static_cast<size_t>(view.dim(1)) * SizeOf(view.dtype);
}

inline bool Keeps(const std::vector<TensorView>& views, size_t i) {
  return i < views.size() && views[i].defined;
}

// Whether some W is kept in another format than that of the product.
inline bool HasExpandedWeight(const LoraLinearForwardArgs& args) {
  return std::ranges::any_of(args.branches, [](const LoraBranch& branch) {
    return branch.weight.format != FormatOf(branch.weight.dtype);
  });
}

}  // namespace lora::cpu
