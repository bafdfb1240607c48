#include "backend/cpu/kernels.h"
#include "backend/cpu/pack.h"
#include "backend/cpu/parallel.h"
#include "core/error.h"

namespace lora::cpu {

void Run(const EmbeddingArgs& args, Scratch, Context& context) {
  const auto* ids = args.ids.as<const int32_t>();
  const size_t rows = static_cast<size_t>(args.ids.numel());
  const size_t row_bytes = static_cast<size_t>(args.weight.cols) * SizeOf(args.y.dtype);
  // All ids are checked before the first row is written, so that a failed op has written nothing.
  for (size_t i = 0; i < rows; ++i) {
    if (ids[i] < 0 || ids[i] >= args.weight.rows) {
      Throw("ERR_DATA", "embedding", "expected ids from 0 to ", args.weight.rows - 1,
            " but received ", ids[i], " at position ", i);
    }
  }
  // A row is strided in its panel, so each element costs a cache line.
  ForRows(context, rows, static_cast<size_t>(args.weight.cols), kCostlyGrain,
          [&](size_t begin, size_t end) {
            for (size_t i = begin; i < end; ++i) {
              UnpackRow(args.weight, ids[i], args.y.as<std::byte>() + i * row_bytes);
            }
          });
}

}  // namespace lora::cpu
