// Decode (decode.cuh) for a W of GGUF's blocks (core/maths/block_formats.h), which is read as the
// file has it and expanded in registers, so y has the bits of a W that was expanded before. What an
// eight is made of, the formats have in common: two words of codes, a byte each, and a scale and an
// offset. A format that is read so is one BlockEights.
//
// Blocks begin anywhere but at the multiples of 4 that loads need, so a lane loads the words around
// its bytes, and shifts them into their places when it expands them. Columns that are no whole turn
// are expanded value by value.
#pragma once

#include "backend/cuda/device/decode.cuh"
#include "core/maths/block_formats.h"

namespace lora::device {

// Eight bytes at any address, as the words that they lie in. `past` is the address % 4.
struct LooseBytes {
  uint32_t words[3];
};
LORA_DEVICE LooseBytes LoadLoose(const uint8_t* bytes, uint32_t past) {
  const auto* const words = reinterpret_cast<const uint32_t*>(bytes - past);
  return {{words[0], words[1], past != 0 ? words[2] : 0u}};
}
// What begins `bits` after the first of the bytes, less than 8.
LORA_DEVICE Vec8 Tightened(const LooseBytes& loose, uint32_t past, int bits = 0) {
  const uint32_t shift = past * 8 + static_cast<uint32_t>(bits);
  return {{FunnelShift(loose.words[0], loose.words[1], shift),
           FunnelShift(loose.words[1], loose.words[2], shift)}};
}

LORA_DEVICE float HalfOf(uint32_t word, int half) {
  return ToFloat(F16{static_cast<uint16_t>(word >> (half * 16))});
}
LORA_DEVICE Vec8 Masked(const Vec8& v, int shift, uint32_t mask) {
  return {{v.words[0] >> shift & mask, v.words[1] >> shift & mask}};
}

// Where the eights of a lane lie in a row: it has columns eight·8 … of each 32, and its warp has
// one half of each block of 256. `block` is that of the first eight; the others are in the same
// one, or one in each of the next.
struct EightsPlace {
  const uint8_t* block;
  uint32_t past;  // block % 4, in every turn
  int eight, half;

  // (block + offset) % 4. Where blocks have an even size, all begin at even addresses.
  template <WeightFormat kFormat>
  LORA_DEVICE uint32_t Past(int offset) const {
    if constexpr (TraitsOf(kFormat).block.bytes % 2 == 0) return offset % 4 == 0 ? past : past ^ 2;
    return (past + static_cast<uint32_t>(offset)) % 4;
  }
};
constexpr uint32_t kNibbles = 0x0f0f0f0f;

// What a lane has loaded of a row's four eights, one of each 32 columns.
//   Load(place, n)     loads what eight n needs, in the place of what was used before
//   Codes(place, n)    the codes of eight n in bytes
//   ScaleOf(place, n)  a value is scale·(code − kBias) + offset; without offsets the product is
//                      rounded for itself, and where a format has them it is exact
template <WeightFormat kFormat>
struct BlockEights;

// Blocks of 32 values with a scale in front: bytes, or the first half in the low bits of 16.
template <WeightFormat kFormat>
struct ScaledEights {
  static constexpr int kBytes = static_cast<int>(TraitsOf(kFormat).block.bytes);
  static constexpr bool kIsBytes = kBytes > 32, kHasOffset = false;
  static constexpr int kHead = kBytes - (kIsBytes ? 32 : 16);  // bytes of the scale
  LooseBytes codes[4];
  uint16_t scales[4];

  LORA_DEVICE void Load(const EightsPlace& place, int n) {
    const uint8_t* const head = place.block + n * kBytes;
    const int eight = kIsBytes ? place.eight : place.eight % 2;
    codes[n] = LoadLoose(head + kHead + eight * 8, Past(place, n));
    scales[n] = kHead == 1 ? *head : *reinterpret_cast<const uint16_t*>(head);
  }
  LORA_DEVICE static uint32_t Past(const EightsPlace& place, int n) {
    return place.Past<kFormat>(n * kBytes + kHead);
  }
  LORA_DEVICE Vec8 Codes(const EightsPlace& place, int n) const {
    if constexpr (kIsBytes) return Tightened(codes[n], Past(place, n));
    return Masked(Tightened(codes[n], Past(place, n), place.eight / 2 * 4), 0, kNibbles);
  }
  LORA_DEVICE GroupScale ScaleOf(const EightsPlace&, int n) const {
    if constexpr (kHead == 1) {
      const uint8_t head = static_cast<uint8_t>(scales[n]);
      return BlockDecoder<kFormat>::ScaleOf(&head, 0);
    } else {
      return {ToFloat(F16{scales[n]})};
    }
  }
};
template <>
struct BlockEights<WeightFormat::kQ4_0> : ScaledEights<WeightFormat::kQ4_0> {
  static constexpr int kBias = 8;
};
template <>
struct BlockEights<WeightFormat::kQ8_0> : ScaledEights<WeightFormat::kQ8_0> {
  static constexpr int kBias = 128;
  LORA_DEVICE Vec8 Codes(const EightsPlace& place, int n) const {
    const Vec8 bytes = ScaledEights::Codes(place, n);
    return {{bytes.words[0] ^ 0x80808080u, bytes.words[1] ^ 0x80808080u}};
  }
};
// Codes of these are looked up.
template <>
struct BlockEights<WeightFormat::kIQ4_NL> : ScaledEights<WeightFormat::kIQ4_NL> {
  static constexpr bool kIsLookup = true;
};
template <>
struct BlockEights<WeightFormat::kMXFP4> : ScaledEights<WeightFormat::kMXFP4> {
  static constexpr bool kIsLookup = true;
};

// Blocks of 256 whose head of 16 bytes has a scale and a minimum of the block, and 6 bits of each
// for every 32 values. Those of a warp's half are the bytes of two words.
template <int kCodesAt>
struct MinimaEights {
  static constexpr bool kHasOffset = true;
  static constexpr int kBias = 0;
  Vec16 head;
  Vec8 codes[2];  // 4 bits of two neighboring eights

  LORA_DEVICE void Load(const EightsPlace& place, int n) {
    const int at = kCodesAt + place.half * 64 + place.eight * 8;
    if (n % 2 == 1) codes[n / 2] = LoadGlobal8(place.block + at + n / 2 * 32);
    if (n == 3) head = LoadGlobal16(place.block);
  }
  LORA_DEVICE Vec8 Codes(const EightsPlace&, int n) const {
    return Masked(codes[n / 2], n % 2 * 4, kNibbles);
  }
  LORA_DEVICE GroupScale ScaleOf(const EightsPlace& place, int n) const {
    const uint32_t a = head.words[1], b = head.words[2], c = head.words[3];
    const uint32_t high = 0x30303030u;
    const bool first = place.half == 0;
    const uint32_t scales = first ? a & 0x3f3f3f3fu : (c & kNibbles) | (a >> 2 & high);
    const uint32_t minima = first ? b & 0x3f3f3f3fu : (c >> 4 & kNibbles) | (b >> 2 & high);
    return {HalfOf(head.words[0], 0) * FloatOfCode(scales, n, 0),
            -(HalfOf(head.words[0], 1) * FloatOfCode(minima, n, 0))};
  }
};
template <>
struct BlockEights<WeightFormat::kQ4_K> : MinimaEights<16> {};
template <>
struct BlockEights<WeightFormat::kQ5_K> : MinimaEights<48> {
  Vec8 fifth;  // a bit for each 32 columns

  LORA_DEVICE void Load(const EightsPlace& place, int n) {
    MinimaEights::Load(place, n);
    if (n == 3) fifth = LoadGlobal8(place.block + 16 + place.eight * 8);
  }
  LORA_DEVICE Vec8 Codes(const EightsPlace& place, int n) const {
    Vec8 bytes = MinimaEights::Codes(place, n);
    LORA_UNROLL
    for (int w = 0; w < 2; ++w)
      bytes.words[w] |= (fifth.words[w] >> (place.half * 4) << 4 >> n) & 0x10101010u;
    return bytes;
  }
};

// Blocks of 256 with a scale of 8 bits for each 16 values, and one of all.
template <>
struct BlockEights<WeightFormat::kQ6_K> {
  static constexpr bool kHasOffset = false;
  static constexpr int kBias = 32;
  LooseBytes low[2];  // 4 bits of eights n and n + 2
  LooseBytes high;    // 2 bits of all
  LooseBytes scales;
  uint16_t scale;

  // All begin at multiples of 4 from the block on.
  LORA_DEVICE void Load(const EightsPlace& place, int n) {
    const uint8_t* const at = place.block + place.eight * 8;
    if (n >= 2) low[n % 2] = LoadLoose(at + place.half * 64 + n % 2 * 32, place.past);
    if (n != 3) return;
    high = LoadLoose(at + 128 + place.half * 32, place.past);
    scales = LoadLoose(place.block + 192 + place.half * 8, place.past);
    scale = *reinterpret_cast<const uint16_t*>(place.block + 208);
  }
  LORA_DEVICE Vec8 Codes(const EightsPlace& place, int n) const {
    Vec8 bytes = Masked(Tightened(low[n % 2], place.past), n / 2 * 4, kNibbles);
    const Vec8 bits = Tightened(high, place.past);
    LORA_UNROLL
    for (int w = 0; w < 2; ++w) {
      const uint32_t placed = n < 2 ? bits.words[w] << (4 - n * 2) : bits.words[w] >> (n * 2 - 4);
      bytes.words[w] |= placed & 0x30303030u;
    }
    return bytes;
  }
  LORA_DEVICE GroupScale ScaleOf(const EightsPlace& place, int n) const {
    const Vec8 of = Tightened(scales, place.past, place.eight / 2 * 8);
    return {ToFloat(F16{scale}) * FloatOfByte(of.words[n / 2], n % 2 * 2)};
  }
};

template <WeightFormat kFormat>
constexpr bool IsLookup() {
  return requires { BlockEights<kFormat>::kIsLookup; };
}

// The rows of W of a lane.
template <WeightFormat kFormat>
struct BlockRows {
  static constexpr int kValues = static_cast<int>(TraitsOf(kFormat).block.values);
  static constexpr int kBytes = static_cast<int>(TraitsOf(kFormat).block.bytes);
  EightsPlace row[2];

  // `first` is the value of the flattened matrix that the lane's first column is.
  LORA_DEVICE void Start(const void* blocks, int half, int64_t first) {
    const uint8_t* const block = static_cast<const uint8_t*>(blocks) + first / kValues * kBytes;
    row[half] = {block, static_cast<uint32_t>(reinterpret_cast<uintptr_t>(block) % 4),
                 LaneIndex() % 4, WarpIndex() % 2};
  }
  LORA_DEVICE void Advance(int columns) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) row[half].block += columns / kValues * kBytes;
  }
  template <class T>
  LORA_DEVICE Vec16 ExpandOne(const CodePairs&, int half, int n) const {
    constexpr bool kOfGroups = kValues == 32;
    const EightsPlace& place = row[half];
    const uint8_t* const from = place.block + (kOfGroups ? n * kBytes : 0);
    const int group = (kOfGroups ? 0 : place.half * 8 + n * 2) + place.eight / 2;
    const GroupScale of = BlockDecoder<kFormat>::ScaleOf(from, group);
    float values[8];
    LORA_UNROLL
    for (int j = 0; j < 8; ++j) {
      const int code = BlockDecoder<kFormat>::CodeOf(from, group, place.eight % 2 * 8 + j);
      values[j] = MulRounded(of.scale, static_cast<float>(code)) + of.offset;
    }
    Vec16 v;
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) v.words[j] = RoundPair<T>(values[2 * j], values[2 * j + 1]);
    return v;
  }
};

template <WeightFormat kFormat>
struct BlockTurn {
  BlockEights<kFormat> of[2];

  LORA_DEVICE void Load(const BlockRows<kFormat>& rows, int n) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) of[half].Load(rows.row[half], n);
  }
  template <class T>
  LORA_DEVICE Vec16 Expand(const BlockRows<kFormat>& rows, const CodePairs& pairs, int half,
                           int n) const {
    using Eights = BlockEights<kFormat>;
    const Vec8 codes = of[half].Codes(rows.row[half], n);
    const GroupScale scale = of[half].ScaleOf(rows.row[half], n);
    Vec16 v;
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) {
      const uint32_t word = codes.words[j / 2];
      const int at = j % 2 * 2;
      FloatPair pair;
      if constexpr (IsLookup<kFormat>()) {
        // Codes 0 and 1, and 2 and 3, side by side, the first in the low bits.
        const uint32_t both = word | word >> 4;
        const auto [second, first] = PairOf(pairs, both >> (at * 8) & 0xffu);
        pair = {MulRounded(scale.scale, first), MulRounded(scale.scale, second)};
      } else {
        const float first = FloatOfCode(word, at, Eights::kBias);
        const float second = FloatOfCode(word, at + 1, Eights::kBias);
        if constexpr (Eights::kHasOffset) {
          pair = {Fma(scale.scale, first, scale.offset), Fma(scale.scale, second, scale.offset)};
        } else {
          pair = {MulRounded(scale.scale, first), MulRounded(scale.scale, second)};
        }
      }
      v.words[j] = RoundPair<T>(pair.low, pair.high);
    }
    return v;
  }
};

// What a code that is looked up stands for: the code of a block that has it everywhere.
template <WeightFormat kFormat>
LORA_DEVICE float LookedUp(int code) {
  uint8_t block[TraitsOf(kFormat).block.bytes];
  LORA_UNROLL
  for (uint8_t& byte : block) byte = static_cast<uint8_t>(code);
  return static_cast<float>(BlockDecoder<kFormat>::CodeOf(block, 0, 0));
}

template <int kXTiles, WeightFormat kFormat>
struct DecodeBlocksParams : DecodeParams<BF16, kXTiles, false> {
  using Plain = DecodeParams<BF16, kXTiles, false>;
  static constexpr int kSharedBytes =
      Plain::kSumBytes + (IsLookup<kFormat>() ? CodePairs::kBytes : 0);
};

// W of a branch is the blocks.
template <int kXTiles, WeightFormat kFormat>
LORA_KERNEL void LORA_LAUNCH_BOUNDS((DecodeBlocksParams<kXTiles, kFormat>::kThreads),
                                    (DecodeBlocksParams<kXTiles, kFormat>::kMinBlocks))
    DecodeBlocks(const LORA_GRID_CONSTANT DecodeBlocksParams<kXTiles, kFormat> p) {
  using P = DecodeBlocksParams<kXTiles, kFormat>;
  using Rows = BlockRows<kFormat>;
  LORA_DYNAMIC_SHARED(shared);
  DecodeRows(static_cast<const typename P::Plain&>(p), shared,
             [&](auto& turns, int number, const int64_t(&rows)[2], int64_t first) {
               Rows w;
               LORA_UNROLL
               for (int half = 0; half < 2; ++half)
                 w.Start(p.branch[number].w, half, rows[half] * p.k + first);
               turns.template AddPacked<BlockTurn<kFormat>>(w, [&] {
                 CodePairs pairs{};
                 if constexpr (IsLookup<kFormat>())
                   pairs = LoadPairs(shared + P::kSumBytes, LookedUp<kFormat>);
                 return pairs;
               });
             });
}

}  // namespace lora::device
