// Says in plain C++ what every device primitive must do. The kernels of self_test.cuh are held to
// it in the emulator, and on a GPU before anything else runs there.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "core/maths/dtype.h"

namespace lora::device {

enum class SelfTest : uint8_t {
  kLoadMatrix,
  kMmaBF16,
  kMmaF16,
  kExchange,
  kCopies,
  kConversions,
  kMath,
  kArrivals
};
inline constexpr SelfTest kSelfTests[] = {
    SelfTest::kLoadMatrix, SelfTest::kMmaBF16,     SelfTest::kMmaF16, SelfTest::kExchange,
    SelfTest::kCopies,     SelfTest::kConversions, SelfTest::kMath,   SelfTest::kArrivals};

// Returns the words in and out of each test.
inline std::vector<uint32_t> SelfTestInput(SelfTest test) {
  std::vector<uint32_t> words(512);
  for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<uint32_t>(i * 2654435761u);
  if (test == SelfTest::kLoadMatrix)
    for (size_t i = 0; i < 128; ++i) words[i] = static_cast<uint32_t>((2 * i + 1) << 16 | 2 * i);
  if (test == SelfTest::kMmaBF16 || test == SelfTest::kMmaF16) {
    const auto bits = [&](size_t i) {
      // The values are so distinct that a swap of any two elements changes a sum; all sums are
      // exact.
      const float f = static_cast<float>((i * 37 + i / 16 * 11) % 61) - 30;
      return uint32_t{test == SelfTest::kMmaBF16 ? BF16FromF32(f) : F16FromF32(f)};
    };
    for (size_t i = 0; i < 192; ++i) words[i] = bits(2 * i) | bits(2 * i + 1) << 16;
    for (size_t i = 0; i < 128; ++i)
      words[192 + i] = std::bit_cast<uint32_t>(static_cast<float>(i) * 0.5f);
  }
  if (test == SelfTest::kConversions) {
    const float special[] = {0.0f,     -0.0f,    1.0f,    1.00390625f, 1.01171875f, 65504.0f,
                             65519.9f, 65520.0f, 1e-5f,   5.9e-8f,     2.9e-8f,     3.4e38f,
                             -1e30f,   1.0f / 3, 2049.0f, 2051.0f,     INFINITY,    -INFINITY};
    for (size_t i = 0; i < 128; ++i) {
      const float f = i < std::size(special) ? special[i] : (static_cast<float>(i) - 64) * 1.2345f;
      words[i] = std::bit_cast<uint32_t>(f);
    }
  }
  if (test == SelfTest::kMath) {
    for (size_t i = 0; i < 128; ++i)
      words[i] = std::bit_cast<uint32_t>((static_cast<float>(i) - 100) * 1.2345f);
    words[128] = std::bit_cast<uint32_t>(NAN);
    words[129] = std::bit_cast<uint32_t>(INFINITY);
  }
  return words;
}

// out[variant][lane][register]: ldmatrix x4, x4.trans, x2, x2.trans of four 8×8 matrices.
inline std::vector<uint32_t> ExpectedLoadMatrix(const std::vector<uint32_t>& in) {
  std::vector<uint32_t> out(512, 0);
  for (size_t variant = 0; variant < 4; ++variant)
    for (size_t lane = 0; lane < 32; ++lane)
      for (size_t i = 0; i < (variant < 2 ? 4u : 2u); ++i) {
        // Elements 2·(l % 4) and the next of row l / 4 of matrix i; transposed, of column l / 4.
        const auto element = [&](size_t row, size_t col) {
          const size_t at = i * 64 + row * 8 + col;
          return in[at / 2] >> at % 2 * 16 & 0xffff;
        };
        const size_t line = lane / 4, place = lane % 4 * 2;
        out[(variant * 32 + lane) * 4 + i] =
            variant % 2 ? element(place, line) | element(place + 1, line) << 16
                        : element(line, place) | element(line, place + 1) << 16;
      }
  return out;
}

// d = a·b + c: a is [16, 16], b [16, 8], both 16-bit, c and d [16, 8] in f32.
inline std::vector<uint32_t> ExpectedMma(const std::vector<uint32_t>& in, bool bf16) {
  const auto element = [&](size_t at) {
    const uint16_t bits = static_cast<uint16_t>(in[at / 2] >> at % 2 * 16);
    return bf16 ? F32FromBF16(bits) : F32FromF16(bits);
  };
  std::vector<uint32_t> out(128);
  for (size_t i = 0; i < 16; ++i)
    for (size_t n = 0; n < 8; ++n) {
      float sum = std::bit_cast<float>(in[192 + i * 8 + n]);
      for (size_t k = 0; k < 16; ++k) sum += element(i * 16 + k) * element(256 + k * 8 + n);
      out[i * 8 + n] = std::bit_cast<uint32_t>(sum);
    }
  return out;
}

// Sixteen words of each of 2·128 threads: shuffles by index, xor and down, an exchange in the warp,
// through named barriers, through 16-byte shared accesses, a non-coherent and a plain 16-byte load;
// then who the thread is; then a non-coherent and a plain 8-byte load.
inline std::vector<uint32_t> ExpectedExchange(const std::vector<uint32_t>& in) {
  std::vector<uint32_t> out(2 * 128 * 16, 0);
  for (size_t block = 0; block < 2; ++block)
    for (size_t t = 0; t < 128; ++t) {
      uint32_t* o = &out[(block * 128 + t) * 16];
      const size_t warp = t / 32 * 32, lane = t % 32;
      o[0] = in[warp + (lane * 3 + 1) % 32];
      o[1] = in[t ^ 9];
      o[2] = in[lane + 5 < 32 ? t + 5 : t];
      o[3] = in[t ^ 5];
      o[4] = t < 64 ? 0 : in[(t - 64) ^ 33];
      o[5] = in[(t + 1) % 128] + 2;
      o[6] = in[t];
      o[7] = in[t];
      o[8] = static_cast<uint32_t>(128 << 16 | 2 << 8 | block);
      o[9] = 1 << 8 | 1;
      o[10] = 0;
      o[11] = static_cast<uint32_t>(t);
      o[12] = in[t];
      o[13] = in[t];
    }
  return out;
}

// Twelve words of each of 128 threads: copies of 16, 8 and 4 bytes to shared memory, of which the
// source gives t % 17, t % 9, t % 5; then copies in global memory of 4 and of 16 bytes.
inline std::vector<uint32_t> ExpectedCopies(const std::vector<uint32_t>& in) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(in.data());
  std::vector<uint32_t> out(128 * 12, 0);
  auto* to = reinterpret_cast<unsigned char*>(out.data());
  for (size_t t = 0; t < 128; ++t) {
    for (size_t i = 0; i < t % 17; ++i) to[t * 48 + i] = bytes[t * 16 + i];
    for (size_t i = 0; i < t % 9; ++i) to[t * 48 + 16 + i] = bytes[t * 8 + i];
    for (size_t i = 0; i < t % 5; ++i) to[t * 48 + 24 + i] = bytes[t * 4 + i];
    out[t * 12 + 7] = in[t];
    for (size_t i = 0; i < 4; ++i) out[t * 12 + 8 + i] = in[t * 4 + i];
  }
  return out;
}

// To bf16 and f16, and back from the same.
inline std::vector<uint32_t> ExpectedConversions(const std::vector<uint32_t>& in) {
  std::vector<uint32_t> out(768);
  for (size_t t = 0; t < 128; ++t) {
    const float f = std::bit_cast<float>(in[t]);
    out[t * 6] = BF16FromF32(f);
    out[t * 6 + 1] = F16FromF32(f);
    out[t * 6 + 2] = std::bit_cast<uint32_t>(F32FromBF16(BF16FromF32(f)));
    out[t * 6 + 3] = std::bit_cast<uint32_t>(F32FromF16(F16FromF32(f)));
    out[t * 6 + 4] = BF16FromF32(f) | uint32_t{BF16FromF32(static_cast<float>(t))} << 16;
    out[t * 6 + 5] = F16FromF32(f) | uint32_t{F16FromF32(static_cast<float>(t))} << 16;
  }
  return out;
}

// Two tiles, for each of which 32 blocks of 128 threads store words of their own; the last to
// arrive adds them. Then come the stored words, and the counters.
inline constexpr size_t kArrivalTiles = 2, kArrivalBlocks = 32;
inline std::vector<uint32_t> ExpectedArrivals(const std::vector<uint32_t>& in) {
  std::vector<uint32_t> sums(kArrivalTiles * 128, 0), parts;
  for (size_t block = 0; block < kArrivalTiles * kArrivalBlocks; ++block)
    for (size_t t = 0; t < 128; ++t) {
      parts.push_back(in[t] * static_cast<uint32_t>(block + 1));
      sums[block % kArrivalTiles * 128 + t] += parts.back();
    }
  sums.insert(sums.end(), parts.begin(), parts.end());
  sums.resize(sums.size() + kArrivalTiles, 0);
  return sums;
}

inline std::vector<uint32_t> SelfTestExpected(SelfTest test, const std::vector<uint32_t>& in) {
  switch (test) {
    case SelfTest::kLoadMatrix:
      return ExpectedLoadMatrix(in);
    case SelfTest::kMmaBF16:
    case SelfTest::kMmaF16:
      return ExpectedMma(in, test == SelfTest::kMmaBF16);
    case SelfTest::kExchange:
      return ExpectedExchange(in);
    case SelfTest::kCopies:
      return ExpectedCopies(in);
    case SelfTest::kConversions:
      return ExpectedConversions(in);
    case SelfTest::kArrivals:
      return ExpectedArrivals(in);
    default:  // the kernel judges itself: a bit for each function that is off
      return std::vector<uint32_t>(128, 0);
  }
}

}  // namespace lora::device
