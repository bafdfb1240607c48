// y = x·scale where the mask keeps an element, else 0 (core/maths/philox.h).
#include <algorithm>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"
#include "core/maths/philox.h"

namespace lora::cpu {
namespace {

constexpr size_t kPart = 512;  // columns that are converted at a time, a multiple of 8

}  // namespace

void Run(const DropoutArgs& args, Scratch, Context& context) {
  RequireFloat("dropout", args.x.dtype);
  const Dropout& dropout = args.dropout;
  const uint32_t threshold = DropoutThreshold(dropout.p);
  const float scale = DropoutScale(threshold);
  const size_t rows = static_cast<size_t>(args.x.dim(0));
  const size_t columns = static_cast<size_t>(args.x.dim(1)), size = SizeOf(args.x.dtype);
  ForRows(context, rows, columns, kCostlyGrain, [&](size_t begin, size_t end) {
    float values[kPart];
    for (size_t row = begin; row < end; ++row) {
      for (size_t first = 0; first < columns; first += kPart) {
        const size_t count = std::min(kPart, columns - first);
        const size_t at = (row * columns + first) * size;
        ConvertToF32(args.x.as<const std::byte>() + at, args.x.dtype, count, values);
        for (size_t j = 0; j < count; j += 8) {
          const PhiloxWords words = Philox4x32(
              dropout.seed, {static_cast<uint32_t>((first + j) / 8), static_cast<uint32_t>(row),
                             dropout.layer, dropout.forward});
          for (size_t i = j; i < std::min(j + 8, count); ++i)
            values[i] =
                DropoutKeeps(words, static_cast<int>(i - j), threshold) ? values[i] * scale : 0.0f;
        }
        ConvertFromF32(values, count, args.y.as<std::byte>() + at, args.y.dtype);
      }
    }
  });
}

template PlannedCall Plan(const DropoutArgs&, int);
}  // namespace lora::cpu
