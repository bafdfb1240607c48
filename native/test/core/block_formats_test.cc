#include "core/maths/block_formats.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace lora {
namespace {

constexpr size_t kBlocks = 1024;

// Returns blocks of bytes that look random.
std::vector<uint8_t> SomeBlocks(size_t format, size_t block_bytes) {
  std::vector<uint8_t> bytes(kBlocks * block_bytes);
  for (size_t n = 0; n < bytes.size(); ++n) {
    uint32_t x = static_cast<uint32_t>(n + format * 1000003) * 0x9E3779B1u;
    x ^= x >> 15;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    bytes[n] = static_cast<uint8_t>(x >> 16);
  }
  return bytes;
}

// A digest of bits at their places. NaNs of scales are zeros in it, because they have many forms.
uint64_t Digest(const std::vector<float>& values) {
  uint64_t digest = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const uint64_t bits = std::isnan(values[i]) ? 0 : std::bit_cast<uint32_t>(values[i]);
    digest += (bits + 1) * (i * 0x9E3779B97F4A7C15u | 1);
  }
  return digest;
}

// Of what dequantize_row_q4_0() … of ggml 0.5.0 (libggml-base of @node-llama-cpp/linux-x64) makes
// of these blocks: 1024 of each format, in which each point of each codebook occurs.
constexpr uint64_t kOfGgml[] = {
    0x371f6e06072eb000u,  // q4_0
    0x57e420e85feea85eu,  // q4_1
    0x58024ec42dc1a600u,  // q5_0
    0x02285ac8dc163719u,  // q5_1
    0x7cf3cb3313c35cc0u,  // q8_0
    0xd60923e24d388120u,  // q2_k
    0x0ca330d1b18bd700u,  // q3_k
    0xc2d2ff591814c35du,  // q4_k
    0x9e71059e95fffebeu,  // q5_k
    0x6c874dad57c78a00u,  // q6_k
    0x178a4a961cc3eac0u,  // iq1_s
    0xab2b5b1552fdd17cu,  // iq2_s
    0xe47e66968f911be0u,  // iq3_s
    0x0646df234272d940u,  // iq4_nl
    0xd43c37b23006ca12u,  // iq4_xs
    0x151871121bce0000u,  // tq1_0
    0x0c0c23146ee70000u,  // tq2_0
    0x8cc34dbbb5bb0000u,  // mxfp4
};

TEST_CASE("blocks: values have the bits that ggml gives them, one by one and by rows") {
  for (size_t i = 0; i < std::size(kOfGgml); ++i) {
    const auto format = static_cast<WeightFormat>(static_cast<size_t>(kFirstBlocks) + i);
    const FormatTraits& traits = TraitsOf(format);
    CAPTURE(traits.name);
    const std::vector<uint8_t> blocks = SomeBlocks(i, static_cast<size_t>(traits.block.bytes));
    std::vector<float> values(kBlocks * static_cast<size_t>(traits.block.values));
    DecodeGroups(format, blocks.data(), static_cast<size_t>(traits.block.bytes), 0,
                 values.size() / kGroupValues, values.data());
    CHECK(Digest(values) == kOfGgml[i]);
    for (size_t at = 0; at < values.size(); ++at)
      values[at] = BlockValue(format, blocks.data(), static_cast<int64_t>(at));
    CHECK(Digest(values) == kOfGgml[i]);
  }
  CHECK(static_cast<size_t>(kLastBlocks) - static_cast<size_t>(kFirstBlocks) + 1 ==
        std::size(kOfGgml));
}

TEST_CASE("blocks: q4_1 is the formula, by hand") {
  // d = 0.5, m = −1; codes 0 … 15 in the low bits and 15 … 0 in the high ones.
  uint8_t block[20] = {0x00, 0x38, 0x00, 0xbc};
  for (int i = 0; i < 16; ++i) block[4 + i] = static_cast<uint8_t>(i | (15 - i) << 4);
  for (int i = 0; i < 16; ++i) {
    CHECK(BlockValue(WeightFormat::kQ4_1, block, i) == 0.5f * static_cast<float>(i) - 1);
    CHECK(BlockValue(WeightFormat::kQ4_1, block, 16 + i) == 0.5f * static_cast<float>(15 - i) - 1);
  }
}

TEST_CASE("blocks: groups are read from any one on, of blocks that lie apart") {
  const std::vector<uint8_t> row = SomeBlocks(3, 18);
  std::vector<uint8_t> apart(kBlocks * 30);
  for (size_t b = 0; b < kBlocks; ++b) std::copy_n(&row[b * 18], 18, &apart[b * 30]);
  std::vector<float> values(5 * kGroupValues);
  DecodeGroups(WeightFormat::kIQ4_NL, apart.data(), 30, 7, 5, values.data());
  for (size_t i = 0; i < values.size(); ++i) {
    const float expected =
        BlockValue(WeightFormat::kIQ4_NL, row.data(), static_cast<int64_t>(7 * kGroupValues + i));
    CHECK(std::bit_cast<uint32_t>(values[i]) == std::bit_cast<uint32_t>(expected));
  }
}

}  // namespace
}  // namespace lora
