// z ← (z > 0 ? z / factor : z · factor) + add for single logits, and −∞ for masked ones.
#include <limits>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"
#include "core/maths/dtype.h"

namespace lora::cpu {
namespace {

// The bits of −∞ in bf16 are the upper half of those in f32.
constexpr uint16_t kMinusInfinityBF16 = 0xff80;

template <class T>
void MaskWord(uint32_t word, T* begin, size_t count, T minus_infinity) {
  if (word == 0xffffffffu) return;
  for (size_t i = 0; i < count; ++i)
    if ((word >> i & 1) == 0) begin[i] = minus_infinity;
}

template <class T>
void MaskRows(const MaskLogitsArgs& args, T minus_infinity, Context& context) {
  const auto rows = static_cast<size_t>(args.logits.dim(0));
  const auto vocab = static_cast<size_t>(args.logits.dim(1));
  const auto words = static_cast<size_t>(args.bits.dim(1));
  ForRows(context, rows, vocab, kCheapGrain, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      const int32_t* bits = args.bits.as<const int32_t>() + row * words;
      for (size_t w = 0; w < words; ++w) {
        MaskWord(static_cast<uint32_t>(bits[w]), args.logits.as<T>() + row * vocab + w * 32,
                 std::min<size_t>(32, vocab - w * 32), minus_infinity);
      }
    }
  });
}

}  // namespace

void Run(const AdjustLogitsArgs& args, Scratch, Context&) {
  RequireActivation("adjust_logits", args.logits.dtype);
  RequireEntries(args);
  const auto* rows = args.rows.as<const int32_t>();
  const auto* ids = args.ids.as<const int32_t>();
  const int64_t vocab = args.logits.dim(1);
  for (int64_t i = 0; i < args.rows.dim(0); ++i) {
    if (rows[i] < 0 || ids[i] < 0) continue;
    const int64_t at = rows[i] * vocab + ids[i];
    const float factor = args.factors.as<const float>()[i];
    const auto adjusted = [&](float z) {
      return (z > 0 ? z / factor : z * factor) + args.addends.as<const float>()[i];
    };
    if (args.logits.dtype == DType::kF32) {
      float& z = args.logits.as<float>()[at];
      z = adjusted(z);
    } else {
      uint16_t& z = args.logits.as<uint16_t>()[at];
      z = BF16FromF32(adjusted(F32FromBF16(z)));
    }
  }
}

void Run(const MaskLogitsArgs& args, Scratch, Context& context) {
  RequireActivation("mask_logits", args.logits.dtype);
  if (args.logits.dtype == DType::kF32) {
    MaskRows(args, -std::numeric_limits<float>::infinity(), context);
  } else {
    MaskRows(args, kMinusInfinityBF16, context);
  }
}

template PlannedCall Plan(const AdjustLogitsArgs&, int);
template PlannedCall Plan(const MaskLogitsArgs&, int);
}  // namespace lora::cpu
