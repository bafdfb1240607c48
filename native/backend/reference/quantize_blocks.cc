// One block after the other, as core/maths/quantize_blocks.h says.
#include "core/maths/quantize_blocks.h"

#include <cmath>

#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const QuantizeBlocksArgs& args, Scratch, Context&) {
  const BlockSize size = TraitsOf(args.format).block;
  for (int64_t b = 0; b < args.count(); ++b) {
    float values[kMaxBlockValues];
    bool finite = true;
    for (int64_t i = 0; i < size.values; ++i) {
      values[i] = static_cast<float>(Load(args.values, b * size.values + i));
      finite = finite && std::isfinite(values[i]);
    }
    uint8_t* const block = args.blocks.as<uint8_t>() + b * size.bytes;
    args.held.as<int8_t>()[b] = finite && EncodeBlock(args.format, values, block);
  }
}

template PlannedCall Plan(const QuantizeBlocksArgs&, int);
}  // namespace lora::reference
