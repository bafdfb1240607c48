// y = x·scale where the mask keeps an element, else 0 (core/maths/philox.h).
#include "backend/reference/kernels.h"
#include "core/maths/philox.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const DropoutArgs& args, Scratch, Context&) {
  const Dropout& dropout = args.dropout;
  const uint32_t threshold = DropoutThreshold(dropout.p);
  const double scale = DropoutScale(threshold);
  const int64_t columns = args.x.dim(1);
  PhiloxWords words{};
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      if (column % 8 == 0) {
        words =
            Philox4x32(dropout.seed, {static_cast<uint32_t>(column / 8), static_cast<uint32_t>(row),
                                      dropout.layer, dropout.forward});
      }
      const int64_t at = row * columns + column;
      const bool keeps = DropoutKeeps(words, static_cast<int>(column % 8), threshold);
      Store(args.y, at, keeps ? scale * Load(args.x, at) : 0);
    }
  }
}

}  // namespace lora::reference
