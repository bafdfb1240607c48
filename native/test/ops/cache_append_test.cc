#include <vector>

#include "test/support/any_bits.h"
#include "test/support/tested.h"

namespace lora::test {
namespace {

struct Case {
  Shape src, cache;
  int64_t offset;
};
const Case kCases[] = {
    {{2, 3, 2, 5}, {2, 7, 2, 5}, 2},
    {{2, 3, 2, 8}, {2, 7, 2, 8}, 4},
    {{3, 1, 4, 16}, {3, 4, 4, 16}, 0},
    {{1, 5, 1, 3}, {1, 5, 1, 3}, 0},
    {{2, 40, 3, 16}, {2, 64, 3, 16}, 24},
    {{4, 3}, {4, 9}, 1},
    {{0, 3, 4}, {0, 5, 4}, 1},
    {{2, 0, 4}, {2, 5, 4}, 5},
    {{2, 3, 0}, {2, 5, 0}, 1},
};

TEST_CASE("cache_append: its positions bit for bit, and no others") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
    for (const Case& c : kCases) {
      CAPTURE(NameOf(dtype));
      CAPTURE(Text(c.src));
      const Tensor src = AnyBits(dtype, c.src), before = Full(dtype, c.cache, 9);
      const Tensor expected = before;
      Run(ReferenceBackend(), CacheAppendArgs{src, expected, c.offset});
      OnEveryPath(
          [&](Context& context) {
            std::vector<Tensor> cache = {before};
            RunTested(CacheAppendArgs{src, cache[0], c.offset}, context);
            return cache;
          },
          [&](const std::vector<Tensor>& cache) { CHECK_IDENTICAL(cache[0], expected); });
    }
  }
}

}  // namespace
}  // namespace lora::test
