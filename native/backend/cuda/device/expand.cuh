// Makes elements of products of a matrix whose format has scales (core/maths/weight_format.h): the
// only code on a GPU that knows the bits of such formats. A value is code·scale or q·scale in f32,
// and is rounded once more where T has 16 bits.
//
// Expand: y = W. A thread makes 8 consecutive values of the flattened matrix, so that a warp reads
// 128 bytes of codes and writes 512 of bf16.
//
// ExpandRows: y[i] = W[ids[i]]. A block makes one row.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"
#include "core/maths/weight_format.h"

namespace lora::device {

struct ScaledWeight {
  static constexpr int kSharedBytes = kCodes * sizeof(float);
  const uint8_t* values;  // int8, or codes of 4 bits
  const float* scales;
  int64_t per_scale;  // values that share one
  int64_t has_codes;  // of 64 bits, so that there is no padding
  float codes[kCodes];
};

// Returns the codes' values in shared memory, where lanes that read different ones need not wait
// for each other. All threads of a block call it.
LORA_DEVICE const float* LoadCodes(const ScaledWeight& w, unsigned char* shared) {
  float* const codes = reinterpret_cast<float*>(shared);
  if (ThreadIndex() < static_cast<int>(kCodes)) codes[ThreadIndex()] = w.codes[ThreadIndex()];
  SyncThreads();
  return codes;
}

// Where code j of eight lies in their word. The first code of a byte is in its high bits.
LORA_DEVICE int CodeShift(int j) { return (j * 4) ^ 4; }

// Eight values as they lie in memory: a byte for each, or eight codes in the first word.
LORA_DEVICE Vec8 LoadBits(const ScaledWeight& w, int64_t first, int64_t count) {
  Vec8 bits{{0, 0}};
  const bool whole = first + 8 <= count;
  if (w.has_codes != 0) {
    const uint8_t* const from = w.values + first / 2;
    if (whole && first % 2 == 0 && reinterpret_cast<uintptr_t>(from) % 4 == 0) {
      bits.words[0] = *reinterpret_cast<const uint32_t*>(from);
    } else {
      LORA_UNROLL
      for (int j = 0; j < 8; ++j) {
        if (first + j >= count) continue;
        const int64_t n = first + j;
        const uint32_t code = w.values[n / 2] >> (n % 2 == 0 ? 4 : 0) & 15u;
        bits.words[0] |= code << CodeShift(j);
      }
    }
  } else if (whole && reinterpret_cast<uintptr_t>(w.values + first) % 8 == 0) {
    bits = LoadGlobal8(w.values + first);
  } else {
    LORA_UNROLL
    for (int j = 0; j < 8; ++j)
      if (first + j < count) bits.words[j / 4] |= uint32_t{w.values[first + j]} << (j % 4 * 8);
  }
  return bits;
}

// Byte j less a bias, as a float. A sum with 2²³ is exact, and several times as fast as a
// conversion.
LORA_DEVICE float FloatOfCode(uint32_t bytes, int j, int bias) {
  const uint32_t digits = 0x7440u | static_cast<uint32_t>(j);  // byte j, zeros, and 0x4b
  return BitsToFloat(SelectBytes(bytes, 0x4b000000u, digits)) - static_cast<float>(0x800000 + bias);
}
// A whole number of 8 bits as a float.
LORA_DEVICE float FloatOfByte(uint32_t word, int j) {
  return FloatOfCode(word ^ 0x80808080u, j, 128);
}

// Value j of these eight, before its scale.
LORA_DEVICE float Unscaled(const ScaledWeight& w, const float* codes, const Vec8& bits, int j) {
  if (w.has_codes != 0) return codes[bits.words[0] >> CodeShift(j) & 15u];
  return FloatOfByte(bits.words[j / 4], j % 4);
}

// values[j] = W[first + j] of the flattened matrix, or 0 from `count` on.
LORA_DEVICE void LoadElements(float (&values)[8], const ScaledWeight& w, const float* codes,
                              int64_t first, int64_t count) {
  const Vec8 bits = LoadBits(w, first, count);
  auto [group, within] = Divide(first, w.per_scale);
  float scale = w.scales[group];
  LORA_UNROLL
  for (int j = 0; j < 8; ++j) {
    if (within == w.per_scale && first + j < count) {
      scale = w.scales[++group];
      within = 0;
    }
    ++within;
    values[j] = first + j < count ? Unscaled(w, codes, bits, j) * scale : 0.0f;
  }
}

// The two values of each pair of codes, which is a byte. Lanes read different bytes, and an access
// of 8 bytes serves 16 of them at once: each of these has a copy of its own, in banks of its own.
struct CodePairs {
  static constexpr int kCopies = 16, kPitch = kCopies * 2 * sizeof(float);
  static constexpr int kBytes = 256 * kPitch;
  const unsigned char* mine;  // the lane's copy
};

// Fills the table in shared memory, which a block of 256 threads does together. Threads begin with
// different copies, since all are alike, so that the banks are evenly busy.
// value(code) is what a code of 4 bits stands for.
template <class Value>
LORA_DEVICE CodePairs LoadPairs(unsigned char* shared, const Value& value) {
  const int byte = ThreadIndex();
  const uint32_t first = FloatToBits(value(byte >> 4)), second = FloatToBits(value(byte & 15));
  LORA_UNROLL
  for (int i = 0; i < CodePairs::kPitch / 16; ++i) {
    const int copies = (i + byte) % (CodePairs::kPitch / 16);
    StoreShared16(shared + byte * CodePairs::kPitch + copies * 16,
                  {{first, second, first, second}});
  }
  SyncThreads();
  return {shared + LaneIndex() % CodePairs::kCopies * (CodePairs::kPitch / CodePairs::kCopies)};
}

// The values of the codes in a byte.
LORA_DEVICE FloatPair PairOf(const CodePairs& pairs, uint32_t byte) {
  const uint64_t pair = *reinterpret_cast<const uint64_t*>(pairs.mine + byte * CodePairs::kPitch);
  return {BitsToFloat(static_cast<uint32_t>(pair)), BitsToFloat(static_cast<uint32_t>(pair >> 32))};
}

// Returns the values of an eight, of 16 bits.
template <class T, bool kHasCodes>
LORA_DEVICE Vec16 ExpandEight(const CodePairs& pairs, const Vec8& bits, float scale) {
  Vec16 v;
  LORA_UNROLL
  for (int j = 0; j < 4; ++j) {
    float first, second;
    if constexpr (kHasCodes) {
      const auto [low, high] = PairOf(pairs, bits.words[0] >> (j * 8) & 0xffu);
      first = low;
      second = high;
    } else {
      first = FloatOfByte(bits.words[j / 2], j % 2 * 2);
      second = FloatOfByte(bits.words[j / 2], j % 2 * 2 + 1);
    }
    v.words[j] = RoundPair<T>(first * scale, second * scale);
  }
  return v;
}

// Eights are 8 neighbors along k, of which a lane loads one of each group of 32 columns, in two
// rows of whole eights. Nothing is computed with what is loaded, so that many loads may be in
// flight. Values are aligned to 4 bytes, as their scales are.
template <bool kHasCodes>
struct ScaledRows;

// A scale is that of 64 values of the flattened matrix, in which rows may begin anywhere.
template <>
struct ScaledRows<true> {
  const uint8_t* values[2];
  const float* scales[2];  // from that of group 0 on
  bool odd[2];             // whether groups with odd numbers have the scale of the group after them

  LORA_DEVICE void Start(const ScaledWeight& w, int half, int64_t row, int64_t k, int64_t count) {
    const int64_t at = row * count + k;
    values[half] = w.values + at / 2;
    scales[half] = w.scales + at / kBlockValues;
    odd[half] = at % kBlockValues >= 32;
  }
  LORA_DEVICE Vec8 Load(int half, int group) const {
    return {{*reinterpret_cast<const uint32_t*>(values[half] + group * 16), 0}};
  }
  LORA_DEVICE float LoadScale(int half, int group) const {
    return scales[half][(group + (odd[half] ? 1 : 0)) / 2];
  }
  template <class T>
  LORA_DEVICE Vec16 ExpandOne(const CodePairs& pairs, int half, int group) const {
    return ExpandEight<T, true>(pairs, Load(half, group), LoadScale(half, group));
  }
  // By columns, of which there are whole blocks.
  LORA_DEVICE void Advance(int columns) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      values[half] += columns / 2;
      scales[half] += columns / kBlockValues;
    }
  }
};

template <>
struct ScaledRows<false> {
  const uint8_t* values[2];
  float scale[2];

  LORA_DEVICE void Start(const ScaledWeight& w, int half, int64_t row, int64_t k, int64_t count) {
    values[half] = w.values + row * count + k;
    scale[half] = w.scales[row];
  }
  LORA_DEVICE Vec8 Load(int half, int group) const {
    const auto* const words = reinterpret_cast<const uint32_t*>(values[half] + group * 32);
    return {{words[0], words[1]}};
  }
  LORA_DEVICE float LoadScale(int half, int) const { return scale[half]; }
  template <class T>
  LORA_DEVICE Vec16 ExpandOne(const CodePairs& pairs, int half, int group) const {
    return ExpandEight<T, false>(pairs, Load(half, group), LoadScale(half, group));
  }
  LORA_DEVICE void Advance(int columns) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) values[half] += columns;
  }
};

// Four groups of them, loaded and not yet expanded.
template <bool kHasCodes>
struct ScaledTurn {
  Vec8 bits[4][2];
  float scales[3][2];  // of codes, those of groups 0 and 1, 1 to 3, and 3

  // Loads a group of the rows, in the place of one that was used before.
  LORA_DEVICE void Load(const ScaledRows<kHasCodes>& rows, int group) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      bits[group][half] = rows.Load(half, group);
      if constexpr (kHasCodes) {
        if (group == 1) scales[0][half] = rows.scales[half][0];
        if (group == 3) scales[1][half] = rows.scales[half][1];
        if (group == 3 && rows.odd[half]) scales[2][half] = rows.scales[half][2];
      }
    }
  }
  LORA_DEVICE float Scale(const ScaledRows<kHasCodes>& rows, int half, int group) const {
    if constexpr (kHasCodes) {
      const float even = scales[group / 2][half];
      return group % 2 == 1 && rows.odd[half] ? scales[group / 2 + 1][half] : even;
    } else {
      return rows.scale[half];
    }
  }
  template <class T>
  LORA_DEVICE Vec16 Expand(const ScaledRows<kHasCodes>& rows, const CodePairs& pairs, int half,
                           int group) const {
    return ExpandEight<T, kHasCodes>(pairs, bits[group][half], Scale(rows, half, group));
  }
};

template <class T>
struct ExpandParams {
  static constexpr int kThreads = 256, kMinBlocks = 4, kPerThread = 8;
  static constexpr int kSharedBytes = ScaledWeight::kSharedBytes;
  ScaledWeight weight;
  T* y;
  int64_t count;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(ExpandParams<T>::kThreads, ExpandParams<T>::kMinBlocks)
    Expand(const LORA_GRID_CONSTANT ExpandParams<T> p) {
  LORA_DYNAMIC_SHARED(shared);
  const float* const codes = LoadCodes(p.weight, shared);
  const int64_t first = GlobalIndex<ExpandParams<T>::kThreads>() * ExpandParams<T>::kPerThread;
  if (first >= p.count) return;
  float values[8];
  LoadElements(values, p.weight, codes, first, p.count);
  StoreElements(p.y, first, p.count, values);
}

template <class T>
struct ExpandRowsParams {
  static constexpr int kThreads = 128, kMinBlocks = 8, kPerThread = 8;
  static constexpr int kSharedBytes = ScaledWeight::kSharedBytes;
  ScaledWeight weight;  // [vocab, dim]
  const int32_t* ids;
  T* y;  // [n, dim]
  int64_t dim;
};

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(ExpandRowsParams<T>::kThreads, ExpandRowsParams<T>::kMinBlocks)
    ExpandRows(const LORA_GRID_CONSTANT ExpandRowsParams<T> p) {
  using P = ExpandRowsParams<T>;
  LORA_DYNAMIC_SHARED(shared);
  const float* const codes = LoadCodes(p.weight, shared);
  const int64_t row = p.ids[BlockX()] * p.dim;
  for (int64_t i = ThreadIndex() * P::kPerThread; i < p.dim; i += P::kThreads * P::kPerThread) {
    float values[P::kPerThread];
    LoadElements(values, p.weight, codes, row + i, row + p.dim);
    StoreElements(p.y + BlockX() * p.dim, i, p.dim, values);
  }
}

}  // namespace lora::device
