// z ← (z > 0 ? z / factor : z · factor) + add for single logits, and −∞ for masked ones.
#include <limits>

#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const AdjustLogitsArgs& args, Scratch, Context&) {
  const auto* rows = args.rows.as<const int32_t>();
  const auto* ids = args.ids.as<const int32_t>();
  const int64_t entries = args.rows.dim(0), vocab = args.logits.dim(1);
  RequireEntries(args);
  for (int64_t i = 0; i < entries; ++i) {
    if (rows[i] < 0 || ids[i] < 0) continue;
    const int64_t at = rows[i] * vocab + ids[i];
    const double z = Load(args.logits, at);
    const double factor = Load(args.factors, i);
    Store(args.logits, at, (z > 0 ? z / factor : z * factor) + Load(args.addends, i));
  }
}

void Run(const MaskLogitsArgs& args, Scratch, Context&) {
  const int64_t vocab = args.logits.dim(1), words = args.bits.dim(1);
  for (int64_t row = 0; row < args.logits.dim(0); ++row) {
    for (int64_t v = 0; v < vocab; ++v) {
      const auto word = static_cast<uint32_t>(args.bits.as<int32_t>()[row * words + v / 32]);
      if ((word >> (v % 32) & 1) == 0) {
        Store(args.logits, row * vocab + v, -std::numeric_limits<double>::infinity());
      }
    }
  }
}

template PlannedCall Plan(const AdjustLogitsArgs&, int);
template PlannedCall Plan(const MaskLogitsArgs&, int);
}  // namespace lora::reference
