// out[i, r] = Σ over depth of Z[i, depth]·S[depth, r]: products whose second factor has few
// columns.
//   kDown      Z = drop(x) [rows, depth]   S = Bᵀ, stored [r, depth]     (H)
//   kUp        Z = g       [rows, depth]   S = A,  stored [depth, r]     (U)
//   kGradient  Z = drop(z)ᵀ, z [depth, outs]   S = u or h, stored [depth, r]   (dB, dA)
//
// Z is read once and is what takes the time. A block owns 128 outs and one split of depth; tiles of
// 16 KiB of Z (rows of 128 bytes of x or g; in kGradient 128 columns) and the matching S travel
// through three stages of shared memory (two where that is all that fits) by cp.async. Each of the
// four warps owns 32 outs and keeps 32×(8 per tile of ranks) accumulators for mma.sync m16n8k16.
//
// S is f32 and is not rounded: a float is the sum of three bf16 numbers, so three products of
// tensor cores give what one in f32 would, and so do five for an f16 Z (two bf16 numbers) and six
// for f32; what they leave out of a product is below 2⁻²¹ of it. Infinities come out as NaN.
//
// The sums of all splits go to `partial` and are added, in the order of the splits, by a second
// launch (SkinnyFinish), which also scales and rounds.
#pragma once

#include <type_traits>

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"
#include "core/philox.h"

namespace lora::device {

enum class SkinnyForm { kDown, kUp, kGradient };

constexpr int kSkinnyTiles = 8;  // of 8 ranks each, in one job
constexpr int kSkinnyJobs = 6;   // in one launch

// What travels in parameters has no padding: GCC 12 clears the padding of structs in arrays at
// wrong places (-ftrivial-auto-var-init, in the emulator's build).
struct SkinnyMask {
  uint64_t seed;
  uint32_t layer, forward, threshold, unused;
};
// Up to 8 ranks of one adapter.
struct SkinnyTile {
  const float* s;  // its first row (kDown) or column
  int64_t pitch;
  int ranks;
  int mask;  // index into the job's masks, or -1; tiles with one mask are neighbours
};
template <class T>
struct SkinnyJob {
  const T* z;
  int64_t pitch, outs, depth, chunk;
  int64_t first_block;
  float* partial;  // [splits, outs, tiles·8]
  int tiles, masks;
  int z_aligned, s_aligned;  // not 0: rows at multiples of 16 bytes
  SkinnyTile tile[kSkinnyTiles];
  SkinnyMask mask[kSkinnyTiles];
};

template <SkinnyForm kForm, class T>
struct SkinnyParams {
  static constexpr int kThreads = 128, kMinBlocks = std::is_same_v<T, BF16> ? 3 : 2;
  static constexpr int kOuts = 128;
  static constexpr int kDepth = 128 / sizeof(T);  // of one stage
  static constexpr int kZBytes = kOuts * kDepth * sizeof(T);
  static constexpr bool kGradient = kForm == SkinnyForm::kGradient;
  static constexpr int kZRows = kGradient ? kDepth : kOuts;
  static constexpr int kZCols = kGradient ? kOuts : kDepth;
  // Floats from one row of S to the next: eight words beyond a multiple of 32 between ranks (or
  // four beyond one of 16 between steps of depth) keep the fragments' loads apart in the banks.
  LORA_HOST_DEVICE static int SPitch(int tiles) {
    return kForm == SkinnyForm::kDown ? kDepth + 8 : (tiles + 1) / 2 * 16 + 4;
  }
  LORA_HOST_DEVICE static int SBytes(int tiles) {
    return (kForm == SkinnyForm::kDown ? tiles * 8 : kDepth) * SPitch(tiles) * 4;
  }
  // 16 columns of Z to a 32-bit word: bit set where the element is kept.
  static constexpr int kMaskWords = kZRows * kZCols / 16;

  int jobs;
  int stages;       // 2 or 3
  int stage_bytes;  // kZBytes + SBytes of the job with most tiles
  int unused;
  SkinnyJob<T> job[kSkinnyJobs];
};

static_assert(std::has_unique_object_representations_v<SkinnyParams<SkinnyForm::kUp, BF16>>);

// Byte offset of 16 bytes in the tile of Z, such that the fragments' loads do not meet in a bank:
// eight rows for ldmatrix; for f32 four rows (kDown, kUp) or four pairs of rows (kGradient) times
// two chunks.
template <class P, class T>
LORA_DEVICE int SkinnyChunk(int row, int chunk) {
  constexpr int kRowBytes = P::kZCols * sizeof(T);
  const int swizzle = sizeof(T) == 2 ? row & 7 : P::kGradient ? row & 6 : (row & 3) << 1;
  return row * kRowBytes + ((chunk ^ swizzle) << 4);
}

template <class P, class T>
LORA_DEVICE void LoadSkinnyZ(unsigned char* stage, const SkinnyJob<T>& job, int64_t out0,
                             int64_t depth0) {
  constexpr int kPerChunk = 16 / sizeof(T), kChunks = P::kZCols / kPerChunk;
  const int64_t row0 = P::kGradient ? depth0 : out0, col0 = P::kGradient ? out0 : depth0;
  const int64_t rows = P::kGradient ? job.depth : job.outs;
  const int64_t cols = P::kGradient ? job.outs : job.depth;
  LORA_UNROLL
  for (int i = 0; i < P::kZRows * kChunks / P::kThreads; ++i) {
    const int index = ThreadIndex() + i * P::kThreads;
    const int r = index / kChunks, chunk = index % kChunks;
    const int64_t row = row0 + r, col = col0 + chunk * kPerChunk;
    int64_t left = row < rows && col < cols ? cols - col : 0;
    const int count = left < kPerChunk ? static_cast<int>(left) : kPerChunk;
    const T* source = job.z + row * job.pitch + col;
    unsigned char* target = stage + SkinnyChunk<P, T>(r, chunk);
    if (job.z_aligned != 0) {
      CopyAsync<16>(target, count ? source : job.z, count * static_cast<int>(sizeof(T)));
    } else if constexpr (sizeof(T) == 4) {
      LORA_UNROLL
      for (int j = 0; j < 4; ++j)
        CopyAsync<4>(target + j * 4, j < count ? source + j : job.z, j < count ? 4 : 0);
    } else {
      Vec16 v{{0, 0, 0, 0}};
      LORA_UNROLL
      for (int j = 0; j < kPerChunk; ++j)
        if (j < count) v.words[j / 2] |= uint32_t{source[j].bits} << (j % 2 * 16);
      StoreShared16(target, v);
    }
  }
}

LORA_DEVICE void CopyFloats(unsigned char* target, const float* source, const float* any,
                            int64_t left, bool aligned) {
  const int count = left < 0 ? 0 : left < 4 ? static_cast<int>(left) : 4;
  if (aligned) {
    CopyAsync<16>(target, count ? source : any, count * 4);
  } else {
    LORA_UNROLL
    for (int j = 0; j < 4; ++j)
      CopyAsync<4>(target + j * 4, j < count ? source + j : any, j < count ? 4 : 0);
  }
}

template <SkinnyForm kForm, class T>
LORA_DEVICE void LoadSkinnyS(unsigned char* s, const SkinnyJob<T>& job, int64_t depth0) {
  using P = SkinnyParams<kForm, T>;
  const int pitch = P::SPitch(job.tiles) * 4;
  for (int t = 0; t < job.tiles; ++t) {
    const SkinnyTile& tile = job.tile[t];
    // A tile is 8·kDepth floats, kDepth·2 chunks of 16 bytes.
    for (int index = ThreadIndex(); index < P::kDepth * 2; index += P::kThreads) {
      if constexpr (kForm == SkinnyForm::kDown) {
        constexpr int kChunks = P::kDepth / 4;
        const int r = index / kChunks, chunk = index % kChunks;
        const int64_t depth = depth0 + chunk * 4;
        CopyFloats(s + (t * 8 + r) * pitch + chunk * 16, tile.s + r * tile.pitch + depth, tile.s,
                   r < tile.ranks ? job.depth - depth : 0, job.s_aligned != 0);
      } else {
        const int k = index / 2, r = index % 2 * 4;
        const int64_t depth = depth0 + k;
        CopyFloats(s + k * pitch + (t * 8 + r) * 4, tile.s + depth * tile.pitch + r, tile.s,
                   depth < job.depth ? tile.ranks - r : 0, job.s_aligned != 0);
      }
    }
  }
}

// Which elements of the tile of Z each mask keeps.
template <class P, class T>
LORA_DEVICE void FillSkinnyMasks(uint32_t* words, const SkinnyJob<T>& job, int64_t out0,
                                 int64_t depth0) {
  constexpr int kWordsPerRow = P::kZCols / 16;
  const int64_t row0 = P::kGradient ? depth0 : out0, col0 = P::kGradient ? out0 : depth0;
  for (int m = 0; m < job.masks; ++m) {
    const SkinnyMask& mask = job.mask[m];
    for (int index = ThreadIndex(); index < P::kMaskWords; index += P::kThreads) {
      const int64_t row = row0 + index / kWordsPerRow;
      const int64_t col = col0 + index % kWordsPerRow * 16;
      uint32_t bits = 0;
      LORA_UNROLL
      for (int half = 0; half < 2; ++half) {
        const PhiloxWords random =
            Philox4x32(mask.seed, {static_cast<uint32_t>(col / 8) + half,
                                   static_cast<uint32_t>(row), mask.layer, mask.forward});
        LORA_UNROLL
        for (int j = 0; j < 8; ++j)
          bits |= uint32_t{DropoutKeeps(random, j, mask.threshold)} << (half * 8 + j);
      }
      words[m * P::kMaskWords + index] = bits;
    }
  }
}

struct alignas(8) FloatPair {
  float x, y;
};

// Bits 0 and 1 as masks of the low and the high half of a word.
LORA_DEVICE uint32_t KeepHalves(uint32_t bits) {
  return ((bits & 1) != 0 ? 0xffffu : 0u) | ((bits & 2) != 0 ? 0xffff0000u : 0u);
}

// x = high + rest, high with the 8 leading bits of x. Three of them are all 24.
LORA_DEVICE uint32_t SplitPair(float& x, float& y) {
  const uint32_t high_x = FloatToBits(x) & 0xffff0000u, high_y = FloatToBits(y) & 0xffff0000u;
  x -= BitsToFloat(high_x);
  y -= BitsToFloat(high_y);
  return high_x >> 16 | high_y;
}

// The fragment of Z for one mma as it lies in memory: 16-bit pairs, or pairs of floats.
template <class T>
struct SkinnyRaw {
  static constexpr int kWords = sizeof(T) == 2 ? 4 : 8;
  uint32_t words[kWords];  // register j's pair: words[j], or words[2j] and words[2j + 1]
};
// The same as a sum of bf16 numbers.
template <class T>
struct SkinnyTerms {
  static constexpr int kTerms = sizeof(T) == 4 ? 3 : std::is_same_v<T, F16> ? 2 : 1;
  uint32_t term[kTerms][4];
};

template <class P, class T>
LORA_DEVICE void LoadSkinnyRaw(SkinnyRaw<T>& raw, const unsigned char* z, int out, int step) {
  const int lane = LaneIndex(), g = lane / 4, q = lane % 4;
  if constexpr (sizeof(T) == 2 && P::kGradient) {
    LoadMatrixX4Trans(raw.words, z + SkinnyChunk<P, T>(step * 16 + lane / 16 * 8 + lane % 8,
                                                       out / 8 + lane / 8 % 2));
  } else if constexpr (sizeof(T) == 2) {
    LoadMatrixX4(raw.words, z + SkinnyChunk<P, T>(out + lane % 16, step * 2 + lane / 16));
  } else {
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int i = out + g + j % 2 * 8, k = step * 16 + 2 * q + j / 2 * 8;
      if constexpr (P::kGradient) {
        LORA_UNROLL
        for (int c = 0; c < 2; ++c)
          raw.words[2 * j + c] =
              *reinterpret_cast<const uint32_t*>(z + SkinnyChunk<P, T>(k + c, i / 4) + i % 4 * 4);
      } else {
        const FloatPair pair =
            *reinterpret_cast<const FloatPair*>(z + SkinnyChunk<P, T>(i, k / 4) + k % 4 * 4);
        raw.words[2 * j] = FloatToBits(pair.x);
        raw.words[2 * j + 1] = FloatToBits(pair.y);
      }
    }
  }
}

// Which of the pair in register j are kept.
template <class P>
LORA_DEVICE uint32_t SkinnyKept(const uint32_t* words, int out, int step, int j) {
  constexpr int kWordsPerRow = P::kZCols / 16;
  const int lane = LaneIndex(), g = lane / 4, q = lane % 4;
  if constexpr (P::kGradient) {
    const uint32_t* word = words + (step * 16 + 2 * q + j / 2 * 8) * kWordsPerRow + out / 16;
    const int bit = g + j % 2 * 8;
    return (word[0] >> bit & 1u) | (word[kWordsPerRow] >> bit & 1u) << 1;
  } else {
    const uint32_t word = words[(out + g + j % 2 * 8) * kWordsPerRow + step];
    return word >> (2 * q + j / 2 * 8) & 3u;
  }
}

template <class T>
LORA_DEVICE void SplitSkinny(SkinnyTerms<T>& z, const SkinnyRaw<T>& raw,
                             const uint32_t (&keep)[4]) {
  LORA_UNROLL
  for (int j = 0; j < 4; ++j) {
    if constexpr (std::is_same_v<T, BF16>) {
      z.term[0][j] = raw.words[j] & KeepHalves(keep[j]);
    } else {
      float x, y;
      if constexpr (sizeof(T) == 2) {
        const uint32_t word = raw.words[j] & KeepHalves(keep[j]);
        x = ToFloat(F16{static_cast<uint16_t>(word)});
        y = ToFloat(F16{static_cast<uint16_t>(word >> 16)});
      } else {
        x = (keep[j] & 1) != 0 ? BitsToFloat(raw.words[2 * j]) : 0.0f;
        y = (keep[j] & 2) != 0 ? BitsToFloat(raw.words[2 * j + 1]) : 0.0f;
      }
      LORA_UNROLL
      for (int n = 0; n < SkinnyTerms<T>::kTerms; ++n) z.term[n][j] = SplitPair(x, y);
    }
  }
}

// The fragment of S for tile t, split in three.
template <SkinnyForm kForm>
LORA_DEVICE void LoadSkinnyTerms(uint32_t (&terms)[3][2], const float* s, int pitch, int t,
                                 int step) {
  const int lane = LaneIndex(), g = lane / 4, q = lane % 4;
  LORA_UNROLL
  for (int j = 0; j < 2; ++j) {
    const int k = step * 16 + 2 * q + j * 8, r = t * 8 + g;
    float x, y;
    if constexpr (kForm == SkinnyForm::kDown) {
      const FloatPair pair = *reinterpret_cast<const FloatPair*>(s + r * pitch + k);
      x = pair.x;
      y = pair.y;
    } else {
      x = s[k * pitch + r];
      y = s[(k + 1) * pitch + r];
    }
    LORA_UNROLL
    for (int n = 0; n < 3; ++n) terms[n][j] = SplitPair(x, y);
  }
}

template <SkinnyForm kForm, class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS((SkinnyParams<kForm, T>::kThreads),
                                    (SkinnyParams<kForm, T>::kMinBlocks))
    Skinny(const LORA_GRID_CONSTANT SkinnyParams<kForm, T> p) {
  using P = SkinnyParams<kForm, T>;
  LORA_DYNAMIC_SHARED(shared);
  int number = 0;
  while (number + 1 < p.jobs && BlockX() >= p.job[number + 1].first_block) ++number;
  const SkinnyJob<T>& job = p.job[number];
  const int64_t block = BlockX() - job.first_block;
  const int64_t out_blocks = (job.outs + P::kOuts - 1) / P::kOuts;
  // Neighbours share a split of S and lie beside each other in z.
  const Division at = Divide(block, out_blocks);
  const int64_t split = at.quotient, out0 = at.remainder * P::kOuts;
  const int64_t begin = split * job.chunk;
  const int64_t end = begin + job.chunk < job.depth ? begin + job.chunk : job.depth;
  const int steps = static_cast<int>((end - begin + P::kDepth - 1) / P::kDepth);
  const int tiles = job.tiles, s_pitch = P::SPitch(tiles);
  uint32_t* masks = reinterpret_cast<uint32_t*>(shared + p.stages * p.stage_bytes);

  const auto load = [&](int n) {
    unsigned char* stage = shared + n % p.stages * p.stage_bytes;
    const int64_t depth0 = begin + int64_t{n} * P::kDepth;
    LoadSkinnyZ<P>(stage, job, out0, depth0);
    LoadSkinnyS<kForm>(stage + P::kZBytes, job, depth0);
  };

  constexpr int kOutTiles = 2;
  const int warp_out = WarpIndex() * kOutTiles * 16;
  float acc[kSkinnyTiles][kOutTiles][4];
  LORA_UNROLL
  for (int t = 0; t < kSkinnyTiles; ++t) {
    LORA_UNROLL
    for (int i = 0; i < kOutTiles; ++i) {
      LORA_UNROLL
      for (int c = 0; c < 4; ++c) acc[t][i][c] = 0.0f;
    }
  }

  const int ahead = p.stages - 1;
  for (int s = 0; s < ahead; ++s) {
    if (s < steps) load(s);
    CopyAsyncCommit();
  }
  for (int n = 0; n < steps; ++n) {
    if (ahead == 2) {
      CopyAsyncWait<1>();
    } else {
      CopyAsyncWait<0>();
    }
    // Everybody's copies of this stage have landed, and everybody is done with the stage filled
    // next and with the masks.
    SyncThreads();
    if (n + ahead < steps) load(n + ahead);
    CopyAsyncCommit();
    if (job.masks > 0) {
      FillSkinnyMasks<P>(masks, job, out0, begin + int64_t{n} * P::kDepth);
      SyncThreads();
    }
    const unsigned char* z_tile = shared + n % p.stages * p.stage_bytes;
    const float* s_tile = reinterpret_cast<const float*>(z_tile + P::kZBytes);
    LORA_UNROLL
    for (int step = 0; step < P::kDepth / 16; ++step) {
      SkinnyRaw<T> raw[kOutTiles];
      SkinnyTerms<T> z[kOutTiles];
      LORA_UNROLL
      for (int i = 0; i < kOutTiles; ++i) LoadSkinnyRaw<P>(raw[i], z_tile, warp_out + i * 16, step);
      int mask = -2;  // of z
      LORA_UNROLL
      for (int t = 0; t < kSkinnyTiles; ++t) {
        if (t >= tiles) continue;
        if (job.tile[t].mask != mask) {
          mask = job.tile[t].mask;
          LORA_UNROLL
          for (int i = 0; i < kOutTiles; ++i) {
            uint32_t keep[4] = {3, 3, 3, 3};
            if (mask >= 0) {
              LORA_UNROLL
              for (int j = 0; j < 4; ++j)
                keep[j] = SkinnyKept<P>(masks + mask * P::kMaskWords, warp_out + i * 16, step, j);
            }
            SplitSkinny(z[i], raw[i], keep);
          }
        }
        uint32_t s[3][2];
        LoadSkinnyTerms<kForm>(s, s_tile, s_pitch, t, step);
        LORA_UNROLL
        for (int i = 0; i < kOutTiles; ++i) {
          LORA_UNROLL
          for (int of_z = SkinnyTerms<T>::kTerms - 1; of_z >= 0; --of_z) {
            LORA_UNROLL
            for (int of_s = 2 - of_z; of_s >= 0; --of_s)
              MmaM16N8K16<BF16>(acc[t][i], z[i].term[of_z], s[of_s]);
          }
        }
      }
    }
  }

  const int lane = LaneIndex();
  const int width = tiles * 8;
  float* partial = job.partial + split * job.outs * width;
  LORA_UNROLL
  for (int i = 0; i < kOutTiles; ++i) {
    LORA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t out = out0 + warp_out + i * 16 + half * 8 + lane / 4;
      if (out >= job.outs) continue;
      LORA_UNROLL
      for (int t = 0; t < kSkinnyTiles; ++t) {
        if (t >= tiles) continue;
        *reinterpret_cast<FloatPair*>(partial + out * width + t * 8 + lane % 4 * 2) = {
            acc[t][i][half * 2], acc[t][i][half * 2 + 1]};
      }
    }
  }
}

}  // namespace lora::device
