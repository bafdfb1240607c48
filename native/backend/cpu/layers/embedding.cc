#include <algorithm>

#include "backend/cpu/formats/pack.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"
#include "core/error.h"

namespace lora::cpu {
namespace {

// Checks all ids before the first element is written, so that a failed op has written nothing.
void CheckIds(const TensorView& ids, int64_t vocab) {
  const auto* id = ids.as<const int32_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (id[i] < 0 || id[i] >= vocab) {
      Throw("ERR_DATA", "embedding", "expected ids from 0 to ", vocab - 1, " but received ", id[i],
            " at position ", i);
    }
  }
}

}  // namespace

void Run(const EmbeddingArgs& args, Scratch, Context& context) {
  const auto* ids = args.ids.as<const int32_t>();
  const size_t rows = static_cast<size_t>(args.ids.numel());
  const size_t row_bytes = static_cast<size_t>(args.weight.cols) * SizeOf(args.y.dtype);
  CheckIds(args.ids, args.weight.rows);
  // A row is strided in its panel, so each element costs a cache line.
  ForRows(context, rows, static_cast<size_t>(args.weight.cols), kCostlyGrain,
          [&](size_t begin, size_t end) {
            for (size_t i = begin; i < end; ++i) {
              UnpackRow(args.weight, ids[i], args.y.as<std::byte>() + i * row_bytes);
            }
          });
}

// A thread has columns of its own, for it must add the rows of one id in their order.
void Run(const EmbeddingBackwardArgs& args, Scratch, Context& context) {
  CheckIds(args.ids, args.dw.dim(0));
  const auto* ids = args.ids.as<const int32_t>();
  const size_t n = static_cast<size_t>(args.ids.numel());
  const size_t dim = static_cast<size_t>(args.dw.dim(1));
  const auto* g = args.g.as<const float>();
  auto* dw = args.dw.as<float>();
  const size_t grain = kCheapGrain / std::max<size_t>(n, 1) + 1;
  ForRange(context, dim, grain, kLineElements, [&](size_t begin, size_t end) {
    for (size_t i = 0; i < n; ++i) {
      float* const row = dw + static_cast<size_t>(ids[i]) * dim;
      for (size_t j = begin; j < end; ++j) row[j] += g[i * dim + j];
    }
  });
}

template PlannedCall Plan(const EmbeddingArgs&, int);
template PlannedCall Plan(const EmbeddingBackwardArgs&, int);
}  // namespace lora::cpu
