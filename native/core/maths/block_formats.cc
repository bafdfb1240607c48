#include "core/maths/block_formats.h"

namespace lora {

void DecodeGroups(WeightFormat format, const uint8_t* row, size_t stride, size_t first,
                  size_t count, float* to) {
  const size_t per_block = static_cast<size_t>(TraitsOf(format).block.values) / kGroupValues;
  const uint16_t* const points = PointsOf(format).data();
  ForBlocks(format, [&]<class Decoder>(Decoder) {
    for (size_t g = first; g < first + count; ++g, to += kGroupValues) {
      const uint8_t* const block = row + g / per_block * stride;
      const int group = static_cast<int>(g % per_block);
      const GroupScale of = Decoder::ScaleOf(block, group);
      for (int i = 0; i < kGroupValues; ++i)
        to[i] = of.scale * static_cast<float>(CodeOf<Decoder>(block, group, i, points)) + of.offset;
    }
  });
}

float BlockValue(WeightFormat format, const uint8_t* blocks, int64_t i) {
  const BlockSize& sizes = TraitsOf(format).block;
  const uint8_t* const block = blocks + i / sizes.values * sizes.bytes;
  const int at = static_cast<int>(i % sizes.values), group = at / kGroupValues;
  float value = 0;
  const uint16_t* const points = PointsOf(format).data();
  ForBlocks(format, [&]<class Decoder>(Decoder) {
    const GroupScale of = Decoder::ScaleOf(block, group);
    const int code = CodeOf<Decoder>(block, group, at % kGroupValues, points);
    value = of.scale * static_cast<float>(code) + of.offset;
  });
  return value;
}

}  // namespace lora
