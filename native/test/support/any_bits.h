// Makes tensors whose bits, not values, are under test.
#pragma once

#include <cstdint>

#include "test/support/tensors.h"

namespace lora::test {

// Returns every bit pattern in turn, NaNs with payloads among them, but without 0xfefe and 0xfeff,
// by which the emulator knows registers that were never set.
inline Tensor AnyBits(DType dtype, Shape shape) {
  Tensor t(dtype, shape);
  for (int64_t i = 0; i < t.numel(); ++i) {
    if (SizeOf(dtype) == 2) {
      const auto bits = static_cast<uint16_t>(0x7f00 + 7 * i);
      t.view().as<uint16_t>()[i] = bits == 0xfefe || bits == 0xfeff ? 0xff00 : bits;
    } else {
      t.view().as<uint32_t>()[i] = static_cast<uint32_t>(0x7f000000 + 0x12345 * i);
    }
  }
  return t;
}

}  // namespace lora::test
