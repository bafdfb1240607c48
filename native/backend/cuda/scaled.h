// Passes weights whose formats have scales to device/expand.cuh. Only .cu files include this.
#pragma once

#include <algorithm>

#include "backend/cuda/device/expand.cuh"
#include "core/maths/row_major.h"
#include "core/ops/tensor_view.h"

namespace lora::cuda {

inline device::ScaledWeight ScaledOf(const PackedView& w) {
  const FormatTraits& format = TraitsOf(w.format);
  const auto* const bytes = static_cast<const uint8_t*>(w.data);
  device::ScaledWeight scaled{
      .values = bytes,
      .scales = reinterpret_cast<const float*>(bytes + ScalesAt(w.format, w.rows, w.cols)),
      .per_scale = format.scales == Scales::kRows ? w.cols : kBlockValues,
      .has_codes = format.codes != nullptr,
      .codes = {}};
  if (format.codes != nullptr) std::ranges::copy(format.codes->values, scaled.codes);
  return scaled;
}

}  // namespace lora::cuda
