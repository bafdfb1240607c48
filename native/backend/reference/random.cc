// Fills a tensor with seeded numbers. core/ops/random.h defines them, for the CPU backend as
// well.
#include "core/ops/random.h"

#include <algorithm>
#include <vector>

#include "backend/reference/kernels.h"
#include "core/ops/element.h"

namespace lora::reference {

void Run(const RandomArgs& args, Scratch, Context&) {
  constexpr int64_t kChunk = 1024;
  std::vector<float> values(kChunk);
  for (int64_t begin = 0; begin < args.y.numel(); begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, args.y.numel());
    RandomElements(args, begin, end, values.data());
    for (int64_t i = begin; i < end; ++i) {
      Store(args.y, i, values[static_cast<size_t>(i - begin)]);
    }
  }
}

template PlannedCall Plan(const RandomArgs&, int);
}  // namespace lora::reference
