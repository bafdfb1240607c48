// Rounds values to blocks of ggml's formats (core/maths/quantize_blocks.h), for files. It is no op
// of the backends' tables: files are written on the host, and the CPU backend defines it.
#pragma once

#include <cstdint>

#include "core/maths/weight_format.h"
#include "core/ops/backend.h"
#include "core/ops/tensor_view.h"

namespace lora::cpu {

struct BlocksArgs {
  TensorView src;  // f32, bf16 or f16: whole blocks of values
  WeightFormat format = WeightFormat::kQ8_0;
  uint8_t* blocks = nullptr;  // their bytes
  uint8_t* held = nullptr;    // for each block: 1, or 0 where a value is not finite or its scale is
                              // too large for f16; the bytes of that block are no use then
};
void QuantizeBlocks(const BlocksArgs& args, Context& context);

}  // namespace lora::cpu
