// A frozen matrix in a format, and its values.
#pragma once

#include "core/maths/weight_format.h"
#include "test/support/run.h"
#include "test/support/tensors.h"

namespace lora::test {

struct Kept {
  WeightFormat format;
  DType activations;
};
// W as it is stored, and its values in the dtype of the activations: q·s in f32, rounded once more.
struct KeptMatrix {
  Tensor stored, scales, values;
  PackArgs args;
  KeptMatrix(const Kept& kept, int64_t rows, int64_t cols, uint64_t seed)
      : values(kept.activations, {rows, cols}) {
    const FormatTraits& format = TraitsOf(kept.format);
    const bool coded = format.codes != nullptr;
    const Shape shape = coded ? Shape{ValueBytes(kept.format, rows, cols)} : Shape{rows, cols};
    stored = format.stored == DType::kI8 ? Integers(DType::kI8, shape, seed, -128, 127)
                                         : Normal(format.stored, shape, seed);
    const int64_t count = ScaleCount(kept.format, rows, cols);
    if (count > 0) scales = Uniform(DType::kF32, {count}, seed + 1, 0.001, 0.02);
    const int64_t per_scale = format.scales == Scales::kRows ? cols : 64;
    for (int64_t i = 0; i < values.numel(); ++i) {
      const float scale = scales ? static_cast<float>(scales.at(i / per_scale)) : 1;
      values.Set(i, (coded ? Decoded(*format.codes, i) : static_cast<float>(stored.at(i))) * scale);
    }
    args = {stored, nullptr, scales, kept.format, rows, cols};
  }

 private:
  float Decoded(const CodeTable& table, int64_t i) const {
    const int byte = static_cast<int>(stored.at(i / 2)) & 0xff;
    return table.values[i % 2 == 0 ? byte >> 4 : byte & 15];
  }
};

}  // namespace lora::test
