#include <doctest/doctest.h>

#include "test/support/any_bits.h"
#include "test/support/close.h"
#include "test/support/run.h"
#include "test/support/schedules.h"

namespace lora::test {
namespace {

TEST_CASE("cuda cache_append: its positions bit for bit, and no others") {
  struct Case {
    Shape src, cache;
    int64_t offset;
  };
  const Case cases[] = {
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
  int turn = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32}) {
    for (const Case& c : cases) {
      for (const int64_t skew : {0, 1}) {
        CAPTURE(NameOf(dtype));
        CAPTURE(Text(c.src));
        CAPTURE(skew);
        MirrorContext context = NthContext(turn++, skew);
        const Tensor src = AnyBits(dtype, c.src), before = Full(dtype, c.cache, 9);
        const Tensor cache = before, expected = before;
        Run(ReferenceBackend(), CacheAppendArgs{src, expected, c.offset});
        Run(MirroredCuda(), CacheAppendArgs{src, cache, c.offset}, context);
        CHECK_IDENTICAL(cache, expected);
        CHECK(cache.intact());
      }
    }
  }
}

}  // namespace
}  // namespace lora::test
