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

// The most rows of x whose sums with a panel stay in vector registers.
constexpr size_t kRegisterRows = 6;

// A register of Intel's AMX has so many rows of so many pairs, or sums; a block is what its eight
// registers multiply at a time (amx-inl.h). Layouts in memory follow from these on every CPU.
constexpr size_t kAmxRows = 16, kAmxPairs = 16, kAmxColumns = 16;
constexpr size_t kAmxBlockRows = 2 * kAmxRows, kAmxBlockColumns = 2 * kAmxColumns;

// f32 is split into this many bf16. A row of split f32 is [elements / kAmxPairs][kParts]
// [kAmxPairs] pairs, padded with zeros, and a panel is [elements / kAmxPairs][parts]
// [kAmxPairs][width] pairs.
constexpr size_t kParts = 3;

}  // namespace lora::cpu
