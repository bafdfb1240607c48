// A product whose b holds codes of 4 bits with a scale for 64 values: W of a format such as NF4,
// [n, k] row-major, with k a multiple of 64. Its blocks of k are copied as codes and expanded in
// the stage, to the bits that expand.cuh would write, so c has the bits of a W that was expanded
// before.
//
// A thread copies the codes of 32 values of a row of W (16 with tiles of 64), and their scale, to
// where these values go: copies into its own bytes need no barrier. Before the stage's barrier it
// replaces them by the values. For 32 of k of a tile of 128 that is 32 lookups in a table of 16
// codes, which lie in different banks, 32 products and 16 conversions for each thread.
#pragma once

#include "backend/cuda/device/expand.cuh"
#include "backend/cuda/device/gemm_mma.cuh"

namespace lora::device {

// Where a product has codes it has them in its first segment.
struct CodedSegments {
  const float* scales[kMaxGemmSegments];  // of each segment; null where b has values
  float codes[kCodes];
};

template <class Tile>
struct GemmCodedParams : GemmParams<Tile> {
  static constexpr int kSharedBytes = Tile::kSharedBytes + ScaledWeight::kSharedBytes;
  CodedSegments coded;
};

// The share of a stage's rows of W that a thread copies and expands.
template <class Tile>
struct CodedShare {
  static constexpr int kParts = Tile::kThreads / Tile::kN;  // threads for each row
  static constexpr int kChunks = Tile::kK / 8 / kParts;     // of 8 values, of a thread
  static constexpr int kCodeBytes = kChunks * 4;
  static_assert(kChunks >= 2 && kParts * kChunks * 8 == Tile::kK);
  int row, chunk;
  LORA_DEVICE CodedShare()
      : row(ThreadIndex() % Tile::kN), chunk(ThreadIndex() / Tile::kN * kChunks) {}

  LORA_DEVICE unsigned char* At(unsigned char* tile, int i) const {
    return tile + ChunkOffset<Tile::kK>(row, chunk + i);
  }
  // Starts the copies of the codes and the scale of columns k0 … of row n0 + row, or of zeros.
  LORA_DEVICE void Copy(const GemmSource& s, const float* scales, int n0, int k0, int n,
                        unsigned char* tile) const {
    const bool inside = n0 + row < n;
    const int64_t first = inside ? (n0 + row) * s.b_pitch + k0 + chunk * 8 : 0;
    CopyAsync<kCodeBytes>(At(tile, 0), static_cast<const uint8_t*>(s.b) + first / 2,
                          inside ? kCodeBytes : 0);
    CopyAsync<4>(At(tile, 1), scales + first / kBlockValues, inside ? 4 : 0);
  }
  // Replaces them by the values.
  template <class T>
  LORA_DEVICE void Expand(const float* codes, unsigned char* tile) const {
    uint32_t words[kChunks];
    LORA_UNROLL
    for (int i = 0; i < kChunks; ++i)
      words[i] = *reinterpret_cast<const uint32_t*>(At(tile, 0) + i * 4);
    const float scale = *reinterpret_cast<const float*>(At(tile, 1));
    LORA_UNROLL
    for (int i = 0; i < kChunks; ++i) {
      Vec16 v;
      LORA_UNROLL
      for (int j = 0; j < 4; ++j)
        v.words[j] = RoundPair<T>(codes[words[i] >> CodeShift(2 * j) & 15u] * scale,
                                  codes[words[i] >> CodeShift(2 * j + 1) & 15u] * scale);
      StoreShared16(At(tile, i), v);
    }
  }
};

template <class T, class Tile>
struct CodedWalk : GemmWalk<Tile, false, true> {
  using Base = GemmWalk<Tile, false, true>;
  const CodedSegments& coded;
  const float* codes;  // in shared memory
  const CodedShare<Tile> share;
  int coded_blocks;  // of the product, its first ones

  LORA_DEVICE CodedWalk(const GemmCodedParams<Tile>& params, const GemmProduct& p,
                        unsigned char* shared)
      : coded(params.coded), codes(reinterpret_cast<const float*>(shared + Tile::kSharedBytes)) {
    if (ThreadIndex() < static_cast<int>(kCodes))
      reinterpret_cast<float*>(shared + Tile::kSharedBytes)[ThreadIndex()] =
          coded.codes[ThreadIndex()];
    SyncThreads();
    coded_blocks =
        coded.scales[p.first_segment] == nullptr ? 0 : params.segment[p.first_segment].k / Tile::kK;
  }
  LORA_DEVICE void Copy(const GemmParams<Tile>& params, const GemmProduct& p,
                        const GemmPlace& place, unsigned char* stage, bool more) {
    const float* const scales = coded.scales[Base::segment / kGemmSegment];
    if (scales == nullptr) return Base::Copy(params, p, place, stage, more);
    const GemmSource& s = SegmentAt(params, {Base::segment, 0});
    const int k0 = s.k - Base::blocks * Tile::kK;
    if (Base::blocks > Base::edges) {
      Base::a.Copy(stage);
    } else {
      LoadTile<Tile::kM, Tile::kK, Tile::kThreads>(stage, static_cast<const uint16_t*>(s.a),
                                                   s.a_pitch, s.a_aligned, place.m0, k0, p.out.m,
                                                   s.k);
    }
    share.Copy(s, scales, place.n0, k0, p.out.n, stage + Tile::kBytesA);
    if (--Base::blocks == 0 && more)
      Base::Start(params, p, place, {Base::segment + kGemmSegment, 0});
  }
  LORA_DEVICE void Arrived(int block, unsigned char* stage) const {
    if (block < coded_blocks) share.template Expand<T>(codes, stage + Tile::kBytesA);
  }
};

template <class T, class Tile>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(Tile::kThreads, Tile::kMinBlocks)
    GemmMmaCoded(const LORA_GRID_CONSTANT GemmCodedParams<Tile> params) {
  LORA_DYNAMIC_SHARED(shared);
  CodedWalk<T, Tile> walk(params, ProductOfBlock(params), shared);
  RunGemmMma<T, Tile, false, true, false>(params, shared, walk, StoreC<T, Tile>());
}

}  // namespace lora::device
