#include "core/maths/quantize_blocks.h"

#include <algorithm>
#include <cmath>

#include "core/maths/block_formats.h"

namespace lora {
namespace {

// Returns false for what becomes an infinity.
bool StoreHalf(float value, uint8_t* at) {
  const uint16_t half = F16FromF32(value);
  at[0] = static_cast<uint8_t>(half);
  at[1] = static_cast<uint8_t>(half >> 8);
  return (half & 0x7fffu) < 0x7c00u;
}

// ---- blocks of 32 values -----------------------------------------------------------------------

constexpr int kShort = 32;

// Of several values of that magnitude, the first.
float OfLargestMagnitude(const float* x) {
  float found = 0;
  for (int i = 0; i < kShort; ++i)
    if (std::fabs(x[i]) > std::fabs(found)) found = x[i];
  return found;
}

float Inverse(float scale) { return scale == 0 ? 0.0f : 1.0f / scale; }

// The whole part of a place; 0 where the inverse of so small a scale is infinite.
int WholePart(double place) { return std::fabs(place) < 0x1p22 ? static_cast<int>(place) : 0; }

bool EncodeQ8(const float* x, uint8_t* block) {
  const float d = std::fabs(OfLargestMagnitude(x)) / 127, inverse = Inverse(d);
  for (int i = 0; i < kShort; ++i) {
    const double place = x[i] * inverse;  // in double adding a half is exact
    block[2 + i] = static_cast<uint8_t>(WholePart(place + std::copysign(0.5, place)));
  }
  return StoreHalf(d, block);
}

// Calls put(i, code) with the codes of 2·kMiddle numbers.
template <int kMiddle, class Put>
bool EncodeAroundMiddle(const float* x, uint8_t* block, const Put& put) {
  const float d = OfLargestMagnitude(x) / -kMiddle, inverse = Inverse(d);
  for (int i = 0; i < kShort; ++i)
    put(i, std::min(2 * kMiddle - 1, WholePart(x[i] * inverse + (kMiddle + 0.5f))));
  return StoreHalf(d, block);
}

void PutNibble(uint8_t* bytes, int i, int code) {
  if (i < kShort / 2) {
    bytes[i] = static_cast<uint8_t>(code & 15);
  } else {
    bytes[i - kShort / 2] |= static_cast<uint8_t>((code & 15) << 4);
  }
}

bool EncodeQ4(const float* x, uint8_t* block) {
  return EncodeAroundMiddle<8>(x, block,
                               [block](int i, int code) { PutNibble(block + 2, i, code); });
}

bool EncodeQ5(const float* x, uint8_t* block) {
  uint32_t fifths = 0;
  const bool held = EncodeAroundMiddle<16>(x, block, [&](int i, int code) {
    fifths |= static_cast<uint32_t>(code >> 4) << i;
    PutNibble(block + 6, i, code);
  });
  for (int i = 0; i < 4; ++i) block[2 + i] = static_cast<uint8_t>(fifths >> (8 * i));
  return held;
}

}  // namespace

// ---- Q4_K --------------------------------------------------------------------------------------

namespace q4_k {
namespace {

// The whole number nearest to a value below 2²², of two equally near ones the even: adding this and
// taking it away rounds.
constexpr float kRounder = 0x1.8p23f;
float Rounded(float value) { return (value + kRounder) - kRounder; }

// The code of a place. In a range so small that 1 / range is infinite no place is a number below
// 2²².
float CodeAt(float place) {
  if (!(place > 0 && place < 0x1p22f)) return 0;
  return place >= kMaxCode ? kMaxCode : Rounded(place);
}

struct Line {
  float a, c;
};

// One group at work.
struct Group {
  const float* x;
  float w[kSize];
  float sum_w = 0, sum_wx = 0, least = 0, most;

  explicit Group(const float* values) : x(values), most(values[0]) {
    float squares = 0;
    for (int i = 0; i < kSize; ++i) squares += x[i] * x[i];
    const float mean = std::sqrt(squares / kSize);
    for (int i = 0; i < kSize; ++i) {
      w[i] = mean + std::fabs(x[i]);
      least = std::min(least, x[i]);
      most = std::max(most, x[i]);
      sum_w += w[i];
      sum_wx += w[i] * x[i];
    }
  }

  void Cut(float from, float per_step, float* codes) const {
    for (int i = 0; i < kSize; ++i) codes[i] = CodeAt(per_step * (x[i] - from));
  }

  // Σ w·(a·q + c − x)².
  float ErrorOf(const Line& line, const float* codes) const {
    float sum = 0;
    for (int i = 0; i < kSize; ++i) {
      const float off = (line.a * codes[i] + line.c) - x[i];
      sum += w[i] * (off * off);
    }
    return sum;
  }

  // Gives the line through the values at their codes. Returns false where these are one.
  bool Fit(const float* codes, Line& line) const {
    float wq = 0, wqq = 0, wqx = 0;
    for (int i = 0; i < kSize; ++i) {
      const float weighted = w[i] * codes[i];
      wq += weighted;
      wqq += weighted * codes[i];
      wqx += weighted * x[i];
    }
    const float determinant = sum_w * wqq - wq * wq;
    if (!(determinant > 0)) return false;
    line.c = (wqq * sum_wx - wq * wqx) / determinant;
    line.a = line.c > 0 ? wqx / wqq : (sum_w * wqx - sum_wx * wq) / determinant;
    line.c = std::min(line.c, 0.0f);
    return true;
  }
};

// codes ← those of the best cut, whose line is returned. Where all values are one, 1 / range is
// infinite, every code 0 and the line x ≈ 0·q + x.
Line FitGroup(const float* x, float* codes) {
  const Group group(x);
  const float per_step = kMaxCode / (group.most - group.least);
  group.Cut(group.least, per_step, codes);
  Line best{1 / per_step, group.least};
  float error = group.ErrorOf(best, codes);
  float tried[kSize];
  for (int cut = 0; cut < kCuts; ++cut) {
    group.Cut(best.c, StepsOf(cut) / (group.most - best.c), tried);
    Line line;
    if (!group.Fit(tried, line)) continue;
    const float off = group.ErrorOf(line, tried);
    if (!(off < error)) continue;
    std::copy_n(tried, kSize, codes);
    best = line;
    error = off;
  }
  return best;
}

bool Encode(const float* x, uint8_t* block) {
  float codes[kGroups * kSize], a[kGroups], c[kGroups];
  for (int j = 0; j < kGroups; ++j) {
    const Line line = FitGroup(x + j * kSize, codes + j * kSize);
    a[j] = line.a;
    c[j] = line.c;
  }
  Stored stored[kGroups];
  if (!StoreScales(a, c, block, stored)) return false;
  for (int j = 0; j < kGroups; ++j) {
    // Without a step every code means the same: those of the fit stay, as in ggml.
    if (stored[j].step == 0) continue;
    for (int i = j * kSize; i < (j + 1) * kSize; ++i)
      codes[i] = CodeAt((x[i] + stored[j].minimum) / stored[j].step);
  }
  // Two groups share 32 bytes, in which the first has the lower bits.
  for (int i = 0; i < kGroups / 2 * kSize; ++i) {
    const float* const code = codes + i / kSize * 2 * kSize + i % kSize;
    block[16 + i] = static_cast<uint8_t>(static_cast<int>(code[0]) |  //
                                         static_cast<int>(code[kSize]) << 4);
  }
  return true;
}

}  // namespace

bool StoreScales(const float (&a)[kGroups], const float (&c)[kGroups], uint8_t* block,
                 Stored (&stored)[kGroups]) {
  constexpr float kMax = 63;
  float most_a = 0, most_b = 0;
  for (int j = 0; j < kGroups; ++j) {
    most_a = std::max(most_a, a[j]);
    most_b = std::max(most_b, -c[j]);
  }
  if (!StoreHalf(most_a / kMax, block) || !StoreHalf(most_b / kMax, block + 2)) return false;
  const float d = BlockBits::Half(block), e = BlockBits::Half(block + 2);
  // The number of 6 bits nearest to a value, in steps of the largest / 63.
  const auto six_bits = [](float value, float most) {
    const float inverse = most > 0 ? kMax / most : 0;
    const float steps = Rounded(inverse * value);
    return steps > 0 ? static_cast<int>(steps < kMax ? steps : kMax) : 0;
  };
  int scales[kGroups], minima[kGroups];
  for (int j = 0; j < kGroups; ++j) {
    scales[j] = six_bits(a[j], most_a);
    minima[j] = six_bits(-c[j], most_b);
    stored[j] = {d * static_cast<float>(scales[j]), e * static_cast<float>(minima[j])};
  }
  // The upper bits of the bytes of the first four groups hold the upper bits of the others.
  for (int j = 0; j < kGroups / 2; ++j) {
    const int scale = scales[j + 4], minimum = minima[j + 4];
    block[4 + j] = static_cast<uint8_t>(scales[j] | scale >> 4 << 6);
    block[8 + j] = static_cast<uint8_t>(minima[j] | minimum >> 4 << 6);
    block[12 + j] = static_cast<uint8_t>((scale & 15) | (minimum & 15) << 4);
  }
  return true;
}

}  // namespace q4_k

bool EncodeBlock(WeightFormat format, const float* values, uint8_t* block) {
  switch (format) {
    case WeightFormat::kQ8_0:
      return EncodeQ8(values, block);
    case WeightFormat::kQ4_0:
      return EncodeQ4(values, block);
    case WeightFormat::kQ5_0:
      return EncodeQ5(values, block);
    case WeightFormat::kQ4_K:
      return q4_k::Encode(values, block);
    default:
      return false;
  }
}

}  // namespace lora
