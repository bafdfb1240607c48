// A frozen matrix in a format, and its values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/maths/blocks.h"
#include "core/maths/weight_format.h"
#include "test/support/run.h"
#include "test/support/tensors.h"

namespace lora::test {

struct Kept {
  WeightFormat format;
  DType activations;
};
// Tells whether a decode step of the tested backend multiplies the codes of W [n, cols] and scales
// their sums. Otherwise it multiplies the values, whose bits it then gives.
bool MultipliesCodes(const Kept& kept, int64_t cols);

// Returns where the scales of a block lie, which are f16.
inline std::vector<size_t> HalvesOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kMXFP4:
      return {};
    case WeightFormat::kQ2_K:
      return {80, 82};
    case WeightFormat::kQ3_K:
      return {108};
    case WeightFormat::kQ6_K:
      return {208};
    case WeightFormat::kTQ1_0:
      return {52};
    case WeightFormat::kTQ2_0:
      return {64};
    case WeightFormat::kQ4_1:
    case WeightFormat::kQ5_1:
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ5_K:
      return {0, 2};
    default:
      return {0};
  }
}

// Gives blocks of any bytes scales of about 0.01.
inline void ScaleBlocks(WeightFormat format, const Tensor& stored) {
  const size_t bytes = static_cast<size_t>(TraitsOf(format).block.bytes);
  auto* const blocks = stored.view().as<uint8_t>();
  for (size_t at = 0; at < static_cast<size_t>(stored.numel()); at += bytes) {
    for (const size_t half : HalvesOf(format)) {
      blocks[at + half] = static_cast<uint8_t>(at / bytes * 37);
      blocks[at + half + 1] = 0x21;
    }
    if (format == WeightFormat::kMXFP4) blocks[at] = static_cast<uint8_t>(119 + at / bytes % 4);
  }
}

// W as it is stored, and its values in the dtype of the activations: q·s in f32, rounded once more.
struct KeptMatrix {
  Tensor stored, scales, values;
  PackArgs args;
  KeptMatrix(const Kept& kept, int64_t rows, int64_t cols, uint64_t seed)
      : values(kept.activations, {rows, cols}) {
    const FormatTraits& format = TraitsOf(kept.format);
    const bool coded = format.codes != nullptr, blocks = HasBlocks(kept.format);
    const Shape shape =
        coded || blocks ? Shape{ValueBytes(kept.format, rows, cols)} : Shape{rows, cols};
    stored = format.stored == DType::kI8 ? Integers(DType::kI8, shape, seed, -128, 127)
                                         : Normal(format.stored, shape, seed);
    if (blocks) ScaleBlocks(kept.format, stored);
    const int64_t count = ScaleCount(kept.format, rows, cols);
    if (count > 0) scales = Uniform(DType::kF32, {count}, seed + 1, 0.001, 0.02);
    // Times a value of 1, every third scale lies in the middle of two bf16.
    for (int64_t i = 0; i < count; i += 3) {
      uint32_t* const bits = scales.view().as<uint32_t>() + i;
      *bits = (*bits & 0xffff0000u) | 0x8000u;
    }
    const int64_t per_scale = format.scales == Scales::kRows ? cols : 64;
    for (int64_t i = 0; i < values.numel(); ++i) {
      if (blocks) {
        values.Set(i, BlockValue(kept.format, stored.view().as<uint8_t>(), i));
        continue;
      }
      const float scale = scales ? static_cast<float>(scales.at(i / per_scale)) : 1;
      values.Set(i, (coded ? Decoded(*format.codes, i) : static_cast<float>(stored.at(i))) * scale);
    }
    args = {stored, nullptr, scales, kept.format, rows, cols};
  }

  // Returns value i, which is not rounded to the dtype of the activations.
  double Value(int64_t i) const {
    const FormatTraits& format = TraitsOf(args.format);
    if (HasBlocks(args.format)) return BlockValue(args.format, stored.view().as<uint8_t>(), i);
    const int64_t per_scale = format.scales == Scales::kRows ? args.cols : 64;
    return (format.codes ? Decoded(*format.codes, i) : stored.at(i)) *
           (scales ? scales.at(i / per_scale) : 1);
  }

 private:
  float Decoded(const CodeTable& table, int64_t i) const {
    const int byte = static_cast<int>(stored.at(i / 2)) & 0xff;
    return table.values[i % 2 == 0 ? byte >> 4 : byte & 15];
  }
};

}  // namespace lora::test
