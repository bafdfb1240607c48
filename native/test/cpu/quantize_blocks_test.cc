#include "core/maths/quantize_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "test/support/run.h"
#include "test/support/simd_targets.h"
#include "test/support/tensors.h"

namespace lora::test {
namespace {

constexpr WeightFormat kFormatsOfFiles[] = {WeightFormat::kQ8_0, WeightFormat::kQ5_0,
                                            WeightFormat::kQ4_0, WeightFormat::kQ4_K};

struct Blocks {
  std::vector<uint8_t> bytes, held;
};

Blocks Written(const Backend& backend, const Tensor& w, WeightFormat format, int threads) {
  const BlockSize size = TraitsOf(format).block;
  const int64_t n = w.numel() / size.values;
  const Tensor blocks(DType::kI8, {n * size.bytes}), held(DType::kI8, {n});
  Run(backend, QuantizeBlocksArgs{w, format, blocks, held}, threads);
  const auto bytes = [](const Tensor& tensor) {
    const auto* data = tensor.view().as<const uint8_t>();
    return std::vector<uint8_t>(data, data + tensor.numel());
  };
  return {bytes(blocks), bytes(held)};
}

// The definition: one block after the other.
Blocks Expected(const Tensor& w, WeightFormat format) {
  return Written(ReferenceBackend(), w, format, 1);
}

TEST_CASE("quantize_blocks: any number of blocks has the bytes of one after the other") {
  for (const WeightFormat format : kFormatsOfFiles) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const int64_t blocks : {0, 1, 2, 3, 5, 67}) {
        CAPTURE(NameOf(format));
        CAPTURE(NameOf(dtype));
        CAPTURE(blocks);
        const Tensor w = Normal(dtype, {blocks * 256}, 7);
        const Blocks expected = Expected(w, format);
        ForEachSimdTarget([&] {
          for (const int threads : {1, 3}) {
            const Blocks found = Written(CpuBackend(), w, format, threads);
            CHECK(found.bytes == expected.bytes);
            CHECK(found.held == expected.held);
          }
        });
      }
    }
  }
}

TEST_CASE("quantize_blocks: numbers that blocks hardly hold, and those that they do not") {
  const float tiny = std::numeric_limits<float>::denorm_min(), huge = 3e38f;
  // 256 values: the first two, and the last 32.
  const double rows[][3] = {{0, 0, 0},         {tiny, 0, 0},      {tiny, -3 * tiny, 7 * tiny},
                            {-2, -2, -2},      {3, 4, 3},         {-0.0, 0, -1},
                            {1e-30, 1, -1e30}, {huge, 0, 0},      {huge, -huge, 1},
                            {1, 2, INFINITY},  {-INFINITY, 0, 0}, {NAN, 1, 1}};
  constexpr size_t kHeld = 6;
  std::vector<double> all(std::size(rows) * 256, 0.0);
  for (size_t r = 0; r < std::size(rows); ++r) {
    all[r * 256] = rows[r][0];
    all[r * 256 + 1] = rows[r][1];
    for (size_t i = 224; i < 256; ++i) all[r * 256 + i] = rows[r][2];
  }
  const Tensor w = Of(DType::kF32, {static_cast<int64_t>(all.size())}, all);
  for (const WeightFormat format : kFormatsOfFiles) {
    CAPTURE(NameOf(format));
    const BlockSize size = TraitsOf(format).block;
    const size_t per_row = 256 / static_cast<size_t>(size.values);
    const Blocks expected = Expected(w, format);
    for (size_t r = 0; r < std::size(rows); ++r) {
      bool held = true;
      for (size_t b = r * per_row; b < (r + 1) * per_row; ++b) held = held && expected.held[b] == 1;
      CAPTURE(r);
      CHECK(held == (r < kHeld));
    }
    ForEachSimdTarget([&] {
      const Blocks found = Written(CpuBackend(), w, format, 2);
      CHECK(found.held == expected.held);
      for (size_t b = 0; b < found.held.size(); ++b) {
        const size_t bytes = static_cast<size_t>(size.bytes), begin = b * bytes;
        if (found.held[b] == 1)
          CHECK(std::equal(found.bytes.begin() + static_cast<std::ptrdiff_t>(begin),
                           found.bytes.begin() + static_cast<std::ptrdiff_t>(begin + bytes),
                           expected.bytes.begin() + static_cast<std::ptrdiff_t>(begin)));
      }
    });
  }
}

// The scale has the sign that gives the value of largest magnitude the code with one more step.
TEST_CASE("quantize_blocks: of two values of the largest magnitude the first decides the sign") {
  for (const WeightFormat format : {WeightFormat::kQ4_0, WeightFormat::kQ5_0}) {
    for (const float first : {2.0f, -2.0f}) {
      CAPTURE(NameOf(format));
      CAPTURE(first);
      float values[32] = {1, first, -first};
      uint8_t block[32];
      REQUIRE(EncodeBlock(format, values, block));
      CHECK((block[1] >= 0x80) == (first > 0));  // of the f16 in the first two bytes
    }
  }
}

}  // namespace
}  // namespace lora::test
