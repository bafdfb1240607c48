// Writes the new value of a parameter, rounded once: stochastically where it is bf16.
#pragma once

#include <bit>

#include "core/maths/stochastic_rounding.h"
#include "core/ops/element.h"

namespace lora::reference {

template <class Segment>
void StoreParameter(const Segment& segment, int64_t i, double value) {
  if (segment.param.dtype != DType::kBF16) return Store(segment.param, i, value);
  const auto& [seed, parameter, step] = segment.rounding;
  const auto words = RoundingWords(seed, parameter, step, static_cast<uint64_t>(i / 8));
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  segment.param.template as<uint16_t>()[i] =
      RoundStochastically(bits, RoundingBits(words, static_cast<int>(i % 8)));
}

}  // namespace lora::reference
