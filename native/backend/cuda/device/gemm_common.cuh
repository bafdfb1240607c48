// The kernels of gemm.cu share their parameters, the walk along the K segments, and the functions
// that bring a sum from the accumulators to c.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/launch.h"
#include "core/maths/dtype.h"
#include "core/maths/philox.h"

namespace lora::device {

constexpr int kMaxGemmSegments = 8;  // of all products of a launch

// The mask of philox.h in numbers; threshold 0 keeps everything.
struct DropoutMask {
  uint64_t seed;
  uint32_t layer, forward, threshold;
  float scale;  // the factor of what is kept
};

struct GemmSource {
  const void* a;
  const void* b;
  int64_t a_pitch, b_pitch;  // elements
  DropoutMask mask;
  int k;                      // at least 1
  bool a_aligned, b_aligned;  // every row starts at a multiple of 16 bytes
  DType a_dtype, b_dtype;     // as they are stored
};
// Structs have no padding: where GCC 12 fills unset variables with a pattern, as the emulator makes
// it do, it clears the padding of arrays of structs at the wrong places.
static_assert(sizeof(GemmSource) == 64, "no padding");

// What becomes of the sums: c [m, n] = alpha·factor ⊙ sums + bias + addend.
struct GemmEpilogue {
  int m, n;
  void* c;
  const float* factor;
  const void* bias;
  const float* addend;
  int64_t c_pitch, addend_pitch;
  int64_t c_split, c_batch;  // elements from the sums of one split, and of one batch, to the next
  float alpha;
  DType c_dtype, bias_dtype;
  int16_t c_align;  // bytes of which every row's start is a multiple: 16, 8, 4 or 2
};
static_assert(sizeof(GemmEpilogue) == 80, "no padding");

// One product of a launch, whose segments are some of the launch's.
struct GemmProduct {
  int first_segment, segment_count;
  int first_tile;                // of BlockX()
  int blocks, blocks_per_split;  // of Tile::kK along all segments
  int late_block;                // the first block that the launch before this one writes
  int64_t a_batch, b_batch;
  GemmEpilogue out;
};
static_assert(sizeof(GemmProduct) == 40 + 80, "no padding");

// Several products may share a launch: product i has the tiles from product[i].first_tile on.
constexpr int kMaxGemmGroup = 4;
template <class Tile>
struct GemmParams {
  static constexpr int kThreads = Tile::kThreads, kMinBlocks = Tile::kMinBlocks;
  static constexpr int kSharedBytes = Tile::kSharedBytes;
  static constexpr bool kWaits = true;
  GemmSource segment[kMaxGemmSegments];
  GemmProduct product[kMaxGemmGroup];
  int count;  // of products
  bool trans_a, trans_b;
  int16_t unused;
};
template <class Tile>
LORA_DEVICE const GemmProduct& ProductOfBlock(const GemmParams<Tile>& params) {
  int i = 0;
  while (i + 1 < params.count && BlockX() >= params.product[i + 1].first_tile) ++i;
  return params.product[i];
}

// The tile of a block of threads. Tiles are visited in groups of kGroup tile rows, so that blocks
// that run together share the columns of b in L2.
struct GemmPlace {
  int m0, n0;
};
template <class Tile>
LORA_DEVICE GemmPlace PlaceOf(const GemmProduct& p) {
  constexpr int kGroup = 8;
  const int tiles_m = (p.out.m + Tile::kM - 1) / Tile::kM;
  const int tiles_n = (p.out.n + Tile::kN - 1) / Tile::kN;
  const int64_t per_group = int64_t{kGroup} * tiles_n;
  const int tile = BlockX() - p.first_tile;
  const int first = static_cast<int>(tile / per_group) * kGroup;
  const int rows = tiles_m - first < kGroup ? tiles_m - first : kGroup;
  const int rest = static_cast<int>(tile % per_group);
  return {(first + rest % rows) * Tile::kM, rest / rows * Tile::kN};
}

// A block of kK steps along the segments of a product. The segment is named by its bytes behind the
// first of the launch: an index would be multiplied in every pass of the loop over k.
struct GemmCursor {
  int segment, k0;
};
constexpr int kGemmSegment = sizeof(GemmSource);
template <class Tile>
LORA_DEVICE const GemmSource& SegmentAt(const GemmParams<Tile>& params, const GemmCursor& at) {
  const auto* first = reinterpret_cast<const unsigned char*>(params.segment);
  return *reinterpret_cast<const GemmSource*>(first + at.segment);
}
template <class Tile>
LORA_DEVICE GemmCursor SeekBlock(const GemmParams<Tile>& params, const GemmProduct& p, int block) {
  GemmCursor at{p.first_segment * kGemmSegment, 0};
  const int end = (p.first_segment + p.segment_count) * kGemmSegment;
  while (at.segment < end) {
    const int blocks = (SegmentAt(params, at).k + Tile::kK - 1) / Tile::kK;
    if (block < blocks) break;
    block -= blocks;
    at.segment += kGemmSegment;
  }
  at.k0 = block * Tile::kK;
  return at;
}
template <class Tile>
LORA_DEVICE void NextBlock(const GemmParams<Tile>& params, GemmCursor& at) {
  at.k0 += Tile::kK;
  if (at.k0 < SegmentAt(params, at).k) return;
  at.k0 = 0;
  at.segment += kGemmSegment;
}

LORA_DEVICE float LoadFloat(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::kBF16 ? ToFloat(BF16{bits}) : ToFloat(F16{bits});
}
LORA_DEVICE uint16_t To16Bits(float value, DType dtype) {
  return dtype == DType::kBF16 ? FromFloat<BF16>(value).bits : FromFloat<F16>(value).bits;
}
LORA_DEVICE uint32_t PackAs(DType dtype, float low, float high) {
  return uint32_t{To16Bits(low, dtype)} | uint32_t{To16Bits(high, dtype)} << 16;
}

// Returns the random words of columns 8·group … 8·group + 7 of a row.
LORA_DEVICE PhiloxWords MaskWords(const DropoutMask& mask, int row, int group) {
  return Philox4x32(mask.seed, {static_cast<uint32_t>(group), static_cast<uint32_t>(row),
                                mask.layer, mask.forward});
}

// Tells, from bit 0 on, which of the two elements that begin at an even column of eight are kept.
LORA_DEVICE uint32_t KeptBits(const DropoutMask& mask, uint32_t word) {
  return ((word & 0xffffu) >= mask.threshold ? 1u : 0u) | (word >> 16 >= mask.threshold ? 2u : 0u);
}
// Shifts `Bits` more bits into a long row of bits, so that what comes first ends up
// highest. A rolled loop can fill the row without a variable index, so the code of the
// random numbers exists once.
template <int Bits, int Words>
LORA_DEVICE void ShiftIn(uint32_t (&row)[Words], uint32_t bits) {
  LORA_UNROLL
  for (int w = Words - 1; w > 0; --w) row[w] = row[w] << Bits | row[w - 1] >> (32 - Bits);
  row[0] = row[0] << Bits | bits;
}

// Returns alpha·factor of a column.
LORA_DEVICE float FactorAt(const GemmEpilogue& p, int col) {
  return p.factor != nullptr && col < p.n ? p.alpha * p.factor[col] : p.alpha;
}
LORA_DEVICE float BiasAt(const GemmEpilogue& p, int col) {
  return p.bias != nullptr && col < p.n ? LoadFloat(p.bias, p.bias_dtype, col) : 0.0f;
}

// Returns where element (row, col) of this block's split and batch is, in elements of c.
LORA_DEVICE int64_t PlaceInC(const GemmEpilogue& p, int64_t row, int col) {
  return BlockZ() * p.c_split + BlockY() * p.c_batch + row * p.c_pitch + col;
}

// Stores four finished columns of a row that is inside c; col is a multiple of 4.
LORA_DEVICE void StoreFour(const GemmEpilogue& p, int64_t row, int col, const float (&v)[4]) {
  const int count = p.n - col;
  const int64_t first = PlaceInC(p, row, col);
  if (p.c_dtype == DType::kF32) {
    float* c = static_cast<float*>(p.c) + first;
    if (count >= 4 && p.c_align == 16) {
      StoreGlobal16(c,
                    {{FloatToBits(v[0]), FloatToBits(v[1]), FloatToBits(v[2]), FloatToBits(v[3])}});
    } else {
      LORA_UNROLL
      for (int j = 0; j < 4; ++j)
        if (j < count) c[j] = v[j];
    }
  } else {
    uint16_t* c = static_cast<uint16_t*>(p.c) + first;
    if (count >= 4 && p.c_align >= 8) {
      // One number, so that the emulator sees one store and checks its alignment.
      *reinterpret_cast<uint64_t*>(c) =
          uint64_t{PackAs(p.c_dtype, v[0], v[1])} | uint64_t{PackAs(p.c_dtype, v[2], v[3])} << 32;
    } else {
      LORA_UNROLL
      for (int j = 0; j < 4; ++j)
        if (j < count) c[j] = To16Bits(v[j], p.c_dtype);
    }
  }
}

// What four columns of all rows share: alpha·factor and bias.
struct FourColumns {
  float factor[4], bias[4];
};
LORA_DEVICE FourColumns ColumnsAt(const GemmEpilogue& p, int col) {
  FourColumns four;
  LORA_UNROLL
  for (int j = 0; j < 4; ++j) {
    four.factor[j] = FactorAt(p, col + j);
    four.bias[j] = BiasAt(p, col + j);
  }
  return four;
}
// v = alpha·factor·v + bias + addend, for the four columns from (row, col) on.
LORA_DEVICE void FinishFour(const GemmEpilogue& p, int64_t row, int col, float (&v)[4],
                            const FourColumns& four) {
  LORA_UNROLL
  for (int j = 0; j < 4; ++j) v[j] = v[j] * four.factor[j] + four.bias[j];
  if (p.addend == nullptr) return;
  LORA_UNROLL
  for (int j = 0; j < 4; ++j)
    if (col + j < p.n) v[j] += p.addend[row * p.addend_pitch + col + j];
}

}  // namespace lora::device
