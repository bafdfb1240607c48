// Tests the offsets of the last elements of tensors that are too large for 32 bits.
#include "test/simt/offsets.h"

#include <doctest/doctest.h>

namespace lora::simt {

TEST_CASE("attention finds the elements of tensors of more than 2^31") {
  // q, y: 4 · 32768 · 64 · 256 = 2³¹ elements.
  const AttentionSizes s{4, 32768, 64, 16, 256};
  CHECK(QueryOffset(s, 0, 0, 0) == 0);
  CHECK(QueryOffset(s, 3, 15, 32768 * 4 - 1) == int64_t{4} * 32768 * 64 * 256 - 256);
  // k, v: as many, with 16 heads and 131072 positions.
  const AttentionSizes keys{4, 131072, 16, 16, 256};
  CHECK(KeyOffset(keys, 3, 15, 131071) == int64_t{4} * 131072 * 16 * 256 - 256);
  // A single row of that size.
  const AttentionSizes one{1, 131072, 128, 8, 256}, long_one{1, 1 << 21, 8, 8, 256};
  CHECK(QueryOffset(one, 0, 7, 131072 * 16 - 1) == int64_t{131072} * 128 * 256 - 256);
  CHECK(KeyOffset(long_one, 0, 7, (1 << 21) - 1) == (int64_t{1} << 21) * 8 * 256 - 256);
  // lse [batch, q_heads, queries]: 2³² of them.
  const AttentionSizes many{512, 131072, 64, 64, 1};
  CHECK(LseOffset(many, 511, 63, 131071) == (int64_t{1} << 32) - 1);
}

}  // namespace lora::simt
