#pragma once

#include <cstddef>

namespace lora::cpu {

// What a product multiplies.
enum class Operands {
  kF32,       // each product and each sum is rounded once
  kPairs,     // of bf16
  kSplitF32,  // f32, each the sum of three bf16, by tile registers (split-inl.h)
};

// How activations in bf16, or in f32, are multiplied by frozen weights, but for decode steps.
Operands OperandsOf(bool bf16);

// How many values along the reduction one element of the product has.
constexpr size_t ValuesPerElement(Operands operands) { return operands == Operands::kF32 ? 1 : 2; }

// f32 is split into this many bf16. A row of split f32 is [elements / kSplitPairs][kParts]
// [kSplitPairs] pairs, padded with zeros, and a panel is [elements / kSplitPairs][parts]
// [kSplitPairs][width] pairs.
constexpr size_t kParts = 3, kSplitPairs = 16;

}  // namespace lora::cpu
