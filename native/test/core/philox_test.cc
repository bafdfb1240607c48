// Holds the generator against the vectors published with Random123, and the dropout mask against
// its layout.
#include "core/maths/philox.h"

#include <cmath>

#include "test/support/close.h"
#include "test/support/run.h"

namespace lora::test {
namespace {

TEST_CASE("philox4x32-10 gives the published words") {
  CHECK(Philox4x32(0, {0, 0, 0, 0}) == PhiloxWords{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(Philox4x32(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u}) ==
        PhiloxWords{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(Philox4x32(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}) ==
        PhiloxWords{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a uniform number lies in [0, 1)") {
  CHECK(UniformFromWord(0) == 0);
  CHECK(UniformFromWord(~0u) == 1 - 0x1p-32);
}

TEST_CASE("the threshold rounds and the scale undoes the share that is dropped") {
  CHECK(DropoutThreshold(0.1f) == 6554);
  CHECK(DropoutThreshold(0.5f) == 32768);
  CHECK(DropoutThreshold(1e-6f) == 0);
  CHECK(DropoutThreshold(0.999999f) == 65535);
  CHECK(DropoutScale(0) == 1);
  CHECK(DropoutScale(32768) == 2);
  CHECK(DropoutScale(6554) == 65536.0f / 58982.0f);
}

TEST_CASE("a mask reads the low half of a word for an even column, the high one for an odd one") {
  const PhiloxWords words = {0x00051000, 0x00040003, 0x00020001, 0xffff0000};
  const bool kept[8] = {true, true, false, false, false, false, false, true};
  for (int column = 0; column < 8; ++column) {
    CAPTURE(column);
    CHECK(DropoutKeeps(words, column, 5) == kept[column]);
  }
  CHECK(DropoutKeeps(words, 6, 0));
}

// Returns what lora_linear makes of x = 1 with down the identity: the mask times its scale.
Tensor Mask(const Dropout& dropout, int64_t rows, int64_t columns) {
  const Tensor x = Full(DType::kF32, {rows, columns}, 1), w = Zeros(DType::kF32, {1, columns});
  Tensor b = Zeros(DType::kF32, {columns, columns});
  for (int64_t i = 0; i < columns; ++i) b.Set(i * columns + i, 1);
  const Tensor a = Zeros(DType::kF32, {1, columns});
  Tensor y(DType::kF32, {rows, 1}), h(DType::kF32, {rows, columns});
  const auto context = ReferenceBackend().create_context(1);
  const FrozenWeight weight(ReferenceBackend(), w, *context);
  LoraLinearForwardArgs args{x, {{weight.view(), {}, a, b, 1, dropout}}, {y}, {h}};
  Run(ReferenceBackend(), args, *context);
  return h;
}

TEST_CASE("the mask of lora_linear follows the layout that philox.h fixes") {
  const Dropout dropout{0.3f, 0x0123456789abcdef, 17, 2026};
  const Tensor mask = Mask(dropout, 5, 21);
  const uint32_t threshold = DropoutThreshold(0.3f);
  for (uint32_t row = 0; row < 5; ++row) {
    for (uint32_t column = 0; column < 21; ++column) {
      const PhiloxWords words = Philox4x32(0x0123456789abcdef, {column / 8, row, 17, 2026});
      const uint32_t word = words[column % 8 / 2];
      const uint32_t bits = column % 2 ? word >> 16 : word & 0xffff;
      const double expected = bits >= threshold ? DropoutScale(threshold) : 0.0f;
      CHECK(mask.at(row * 21 + column) == expected);
    }
  }
}

TEST_CASE("the share that is kept, and the mean, are what p says") {
  for (const float p : {0.05f, 0.1f, 0.5f, 0.9f}) {
    CAPTURE(p);
    const Tensor mask = Mask({p, 7, 0, 0}, 500, 64);
    double kept = 0, sum = 0;
    for (int64_t i = 0; i < mask.numel(); ++i) {
      kept += mask.at(i) != 0;
      sum += mask.at(i);
    }
    const double n = static_cast<double>(mask.numel()), keep = 1 - static_cast<double>(p);
    const double deviation = std::sqrt(keep * (1 - keep) / n);
    CHECK(std::fabs(kept / n - keep) <= 4 * deviation + 1.0 / 65536);
    CHECK(std::fabs(sum / n - 1) <= (4 * deviation + 1.0 / 65536) / keep);
  }
}

TEST_CASE("seed, layer and forward each give another mask, and the same numbers the same one") {
  const Tensor mask = Mask({0.5f, 1, 2, 3}, 8, 16);
  CHECK(Identical(mask, Mask({0.5f, 1, 2, 3}, 8, 16)).ok);
  CHECK_FALSE(Identical(mask, Mask({0.5f, 2, 2, 3}, 8, 16)).ok);
  CHECK_FALSE(Identical(mask, Mask({0.5f, 1 + (uint64_t{1} << 32), 2, 3}, 8, 16)).ok);
  CHECK_FALSE(Identical(mask, Mask({0.5f, 1, 3, 3}, 8, 16)).ok);
  CHECK_FALSE(Identical(mask, Mask({0.5f, 1, 2, 4}, 8, 16)).ok);
}

}  // namespace
}  // namespace lora::test
