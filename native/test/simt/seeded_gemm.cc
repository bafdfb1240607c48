// Seeds the bugs of tiled kernels into a plain tiled product with two stages of 64×64×64.
#include "backend/cuda/device/launch.h"
#include "test/simt/seeded_kernels.h"

namespace lora::simt {
namespace {

using namespace device;  // NOLINT: the code below is kernel code

constexpr int kTile = 64, kTileBytes = kTile * 128;

// As written, as read with kSwizzleDiffers, and a pattern that is consistent but meets conflicts.
LORA_DEVICE int Offset(int row, int chunk, int pattern) {
  return row * 128 + ((chunk ^ (row & pattern)) << 4);
}

LORA_DEVICE void LoadTile(unsigned char* tile, const BF16* matrix, int row0, int k0, int rows,
                          int k, int pitch, int bug) {
  const int chunk = ThreadIndex() % 8;
  for (int i = 0; i < 4; ++i) {
    const int r = ThreadIndex() / 8 + i * 16, row = row0 + r, col = k0 + chunk * 8;
    int count = col < k ? k - col : 0;
    if (count > 8) count = 8;
    if (bug == kTailUnclamped && count > 0) count = 8;
    if (row >= rows && bug != kRowsUnbounded) count = 0;
    if (bug == kChunkMissing && r == 63 && chunk == 7) continue;
    CopyAsync<16>(tile + Offset(r, chunk, bug == kConsistentBadSwizzle ? 3 : 7),
                  count ? matrix + row * pitch + col : matrix, count * 2);
  }
}

LORA_KERNEL void SeededGemmKernel(int bug, GemmProblem p) {
  LORA_DYNAMIC_SHARED(shared);
  const int lane = LaneIndex(), warp_m = WarpIndex() / 2 * 32, warp_n = WarpIndex() % 2 * 32;
  const int m0 = BlockY() * kTile, n0 = BlockX() * (bug == kTilesOverlap ? kTile - 8 : kTile);
  const int pattern = bug == kSwizzleDiffers || bug == kConsistentBadSwizzle ? 3 : 7;
  float acc[2][4][4];
  for (auto& row : acc)
    for (auto& tile : row)
      for (float& value : tile)
        if (bug != kUnsetTile || p.m == 0) value = 0;
  const auto load = [&](int block) {
    unsigned char* a = shared + block % 2 * 2 * kTileBytes;
    LoadTile(a, static_cast<const BF16*>(p.a), m0, block * kTile, p.m, p.k, p.a_pitch, bug);
    LoadTile(a + kTileBytes, static_cast<const BF16*>(p.b), n0, block * kTile, p.n, p.k, p.b_pitch,
             bug == kConsistentBadSwizzle ? bug : 0);
    CopyAsyncCommit();
  };
  const int blocks = (p.k + kTile - 1) / kTile;
  load(0);
  for (int block = 0; block < blocks; ++block) {
    if (block + 1 < blocks) {
      load(block + 1);
      if (bug != kNoWait) CopyAsyncWait<1>();
    } else if (bug == kLastTurnUnwaited) {
      CopyAsyncWait<1>();
    } else {
      CopyAsyncWait<0>();
    }
    if (bug == kThreeWarpsSync) {
      if (ThreadIndex() < 96) SyncThreads();
    } else if (bug != kNoBarrierAfterLoad) {
      SyncThreads();
    }
    const unsigned char* a = shared + block % 2 * 2 * kTileBytes;
    for (int step = 0; step < kTile / 16; ++step) {
      uint32_t x[2][4], y[4][2];
      for (int i = 0; i < 2; ++i)
        LoadMatrixX4(x[i], a + Offset(warp_m + i * 16 + lane % 16, step * 2 + lane / 16, pattern));
      for (int j = 0; j < 2; ++j) {
        uint32_t r[4];
        LoadMatrixX4(r, a + kTileBytes +
                            Offset(warp_n + j * 16 + lane / 16 * 8 + lane % 8,
                                   step * 2 + lane / 8 % 2, bug == kConsistentBadSwizzle ? 3 : 7));
        y[2 * j][0] = r[0];
        y[2 * j][1] = r[1];
        y[2 * j + 1][0] = r[2];
        y[2 * j + 1][1] = r[3];
      }
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 4; ++j)
          if (bug != kLaneSkipsMma || lane < 31 || step) MmaM16N8K16<BF16>(acc[i][j], x[i], y[j]);
    }
    if (bug != kNoBarrierAfterCompute) SyncThreads();
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 4; ++j)
      for (int half = 0; half < 2; ++half) {
        const int row = m0 + warp_m + i * 16 + lane / 4 + half * 8;
        const int col = n0 + warp_n + j * 8 + lane % 4 * 2;
        if (row >= p.m) continue;
        float* c = p.c + row * p.c_pitch + col;
        if (col < p.n) c[0] = acc[i][j][half * 2];
        if (col + 1 < p.n || bug == kStorePastN) c[1] = acc[i][j][half * 2 + 1];
      }
}

}  // namespace

Result SeededGemm(const Options& options, int bug, const GemmProblem& p) {
  const auto tiles = [](int size) { return static_cast<unsigned>((size + kTile - 1) / kTile); };
  return Launch(options, SeededGemmKernel, {tiles(p.n), tiles(p.m)}, {128}, 4 * kTileBytes, bug, p);
}

}  // namespace lora::simt
