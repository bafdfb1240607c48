// The copies of the product's blocks of k to the stages. Blocks that lie inside of both operands,
// whose rows start at multiples of 16 bytes, are most of a large product: for these a thread keeps
// one pointer into each operand, walks with it from block to block, and compares nothing. Blocks at
// the edges of m, n and k, and operands at other addresses, are copied by LoadStage.
#pragma once

#include "backend/cuda/device/gemm_tile.cuh"

namespace lora::device {

// One operand of kExtent rows or columns of c. k goes along its rows in memory, or with kDown down
// its columns.
template <class Tile, int kExtent, bool kDown>
struct OperandWalk {
  static constexpr int kRows = kDown ? Tile::kK : kExtent, kCols = kDown ? kExtent : Tile::kK;
  static constexpr int kChunks = kCols / 8, kStep = Tile::kThreads / kChunks;
  static constexpr int kLoads = kRows / kStep;

  const unsigned char* at;  // the thread's chunk in the first of its rows
  int64_t step;             // bytes from one of its rows to the next

  LORA_DEVICE void Start(const uint16_t* matrix, int64_t pitch, int first, int k0) {
    const int row = (kDown ? k0 : first) + ThreadIndex() / kChunks;
    const int col = (kDown ? first : k0) + ThreadIndex() % kChunks * 8;
    at = reinterpret_cast<const unsigned char*>(matrix + row * pitch + col);
    step = pitch * 2 * kStep;
  }
  // Copies the block and goes to the next one. The swizzle has the same pattern every kStep rows.
  LORA_DEVICE void Copy(unsigned char* tile) {
    unsigned char* const target =
        tile + ChunkOffset<kCols>(ThreadIndex() / kChunks, ThreadIndex() % kChunks);
    const unsigned char* source = at;
    LORA_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      CopyAsync<16>(target + i * kStep * kCols * 2, source, 16);
      source += step;
    }
    at = kDown ? source : at + Tile::kK * 2;
  }
};

// The walk along all segments.
template <class Tile, bool kTransA, bool kTransB>
struct GemmWalk {
  OperandWalk<Tile, Tile::kM, kTransA> a;
  OperandWalk<Tile, Tile::kN, !kTransB> b;
  int segment;  // as in GemmCursor
  int blocks;   // from here to the end of the segment
  int edges;    // of these, the last ones that LoadStage copies

  LORA_DEVICE void Start(const GemmParams<Tile>& params, const GemmProduct& p,
                         const GemmPlace& place, const GemmCursor& cursor) {
    const GemmSource& s = SegmentAt(params, cursor);
    a.Start(static_cast<const uint16_t*>(s.a) + BlockY() * p.a_batch, s.a_pitch, place.m0,
            cursor.k0);
    b.Start(static_cast<const uint16_t*>(s.b) + BlockY() * p.b_batch, s.b_pitch, place.n0,
            cursor.k0);
    segment = cursor.segment;
    blocks = (s.k - cursor.k0 + Tile::kK - 1) / Tile::kK;
    const bool inside = place.m0 + Tile::kM <= p.out.m && place.n0 + Tile::kN <= p.out.n;
    const bool walks = inside && s.a_aligned && s.b_aligned;
    edges = !walks ? blocks : s.k % Tile::kK != 0 ? 1 : 0;
  }
  // Starts the copies of a block to a stage, and goes to the next one. `more` tells whether there
  // is one.
  LORA_DEVICE void Copy(const GemmParams<Tile>& params, const GemmProduct& p,
                        const GemmPlace& place, unsigned char* stage, bool more) {
    if (blocks > edges) {
      a.Copy(stage);
      b.Copy(stage + Tile::kBytesA);
    } else {
      const int all = (SegmentAt(params, {segment, 0}).k + Tile::kK - 1) / Tile::kK;
      LoadStage<Tile, kTransA, kTransB>(params, p, {segment, (all - blocks) * Tile::kK}, place,
                                        stage);
    }
    if (--blocks == 0 && more) Start(params, p, place, {segment + kGemmSegment, 0});
  }
  // Called when this thread's copies of a block of the product have arrived, before others read
  // them.
  LORA_DEVICE void Arrived(int, unsigned char*) const {}
};

}  // namespace lora::device
