// The factor Z of skinny.cuh: its tile in shared memory, the masks of its dropout, its fragments.
//
// There are two layouts. Each has
//   kRows, kCols            the tile in shared memory
//   Chunk(row, chunk)       byte offset of 16 bytes of the tile
//   Load, FillMasks         fill the tile, and the bits of its masks, of those of the launch
//   LoadRaw(raw, z, out, step)    the fragment of 16 outs from `out` on and of 16 steps of depth
//   Kept(words, out, step, j)     which of the two elements in register j of that fragment are kept
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/skinny_job.cuh"
#include "backend/cuda/device/skinny_split.cuh"
#include "core/maths/philox.h"

namespace lora::device {

// Copies the tile at (row0, col0) of a matrix of rows×cols; outside of it are zeros.
template <class Z, class T>
LORA_DEVICE void LoadSkinnyZ(unsigned char* stage, const SkinnyJob<T>& job, int64_t row0,
                             int64_t col0, int64_t rows, int64_t cols) {
  constexpr int kPerChunk = 16 / sizeof(T), kChunks = Z::kCols / kPerChunk;
  constexpr int kThreads = SkinnyBlock<T>::kThreads;
  LORA_UNROLL
  for (int i = 0; i < Z::kRows * kChunks / kThreads; ++i) {
    const int index = ThreadIndex() + i * kThreads;
    const int r = index / kChunks, chunk = index % kChunks;
    const int64_t row = row0 + r, col = col0 + chunk * kPerChunk;
    int64_t left = row < rows && col < cols ? cols - col : 0;
    const int count = left < kPerChunk ? static_cast<int>(left) : kPerChunk;
    const T* source = job.z + row * job.pitch + col;
    unsigned char* target = stage + Z::Chunk(r, chunk);
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

// Computes which elements of the tile at (row0, col0) each mask keeps: a word has the bits of 16
// columns of a row.
template <class Z, class T>
LORA_DEVICE void FillSkinnyMasks(uint32_t* words, const SkinnyJob<T>& job,
                                 const SkinnyMask (&masks)[kSkinnyOutputs], int64_t row0,
                                 int64_t col0) {
  constexpr int kWordsPerRow = Z::kCols / 16, kWords = Z::kRows * kWordsPerRow;
  for (int m = 0; m < job.masks; ++m) {
    const SkinnyMask& mask = masks[job.first_mask + m];
    for (int index = ThreadIndex(); index < kWords; index += SkinnyBlock<T>::kThreads) {
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
      words[m * kWords + index] = bits;
    }
  }
}

// The layout of kDown and kUp: rows of the tile are outs, columns are depth.
template <class T>
struct SkinnyZByOut {
  static constexpr int kRows = SkinnyBlock<T>::kOuts, kCols = SkinnyBlock<T>::kDepth;

  // The swizzle keeps a fragment's loads apart in the banks: those of eight rows for ldmatrix, or
  // for f32 of four rows times two chunks.
  LORA_DEVICE static int Chunk(int row, int chunk) {
    constexpr int kRowBytes = kCols * sizeof(T);
    const int swizzle = sizeof(T) == 2 ? row & 7 : (row & 3) << 1;
    return row * kRowBytes + ((chunk ^ swizzle) << 4);
  }

  LORA_DEVICE static void Load(unsigned char* stage, const SkinnyJob<T>& job, int64_t out0,
                               int64_t depth0) {
    LoadSkinnyZ<SkinnyZByOut>(stage, job, out0, depth0, job.outs, job.depth);
  }
  LORA_DEVICE static void FillMasks(uint32_t* words, const SkinnyJob<T>& job,
                                    const SkinnyMask (&masks)[kSkinnyOutputs], int64_t out0,
                                    int64_t depth0) {
    FillSkinnyMasks<SkinnyZByOut>(words, job, masks, out0, depth0);
  }

  LORA_DEVICE static void LoadRaw(SkinnyRaw<T>& raw, const unsigned char* z, int out, int step) {
    const int lane = LaneIndex(), g = lane / 4, q = lane % 4;
    if constexpr (sizeof(T) == 2) {
      LoadMatrixX4(raw.words, z + Chunk(out + lane % 16, step * 2 + lane / 16));
    } else {
      LORA_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int i = out + g + j % 2 * 8, k = step * 16 + 2 * q + j / 2 * 8;
        const FloatPair pair = *reinterpret_cast<const FloatPair*>(z + Chunk(i, k / 4) + k % 4 * 4);
        raw.words[2 * j] = FloatToBits(pair.low);
        raw.words[2 * j + 1] = FloatToBits(pair.high);
      }
    }
  }

  LORA_DEVICE static uint32_t Kept(const uint32_t* words, int out, int step, int j) {
    const int lane = LaneIndex(), g = lane / 4, q = lane % 4;
    const uint32_t word = words[(out + g + j % 2 * 8) * (kCols / 16) + step];
    return word >> (2 * q + j / 2 * 8) & 3u;
  }
};

// The layout of kGradient: rows of the tile are depth, columns are outs.
template <class T>
struct SkinnyZByDepth {
  static constexpr int kRows = SkinnyBlock<T>::kDepth, kCols = SkinnyBlock<T>::kOuts;

  // The swizzle keeps a fragment's loads apart in the banks: those of eight rows for ldmatrix, or
  // for f32 of four pairs of rows times two chunks.
  LORA_DEVICE static int Chunk(int row, int chunk) {
    constexpr int kRowBytes = kCols * sizeof(T);
    const int swizzle = sizeof(T) == 2 ? row & 7 : row & 6;
    return row * kRowBytes + ((chunk ^ swizzle) << 4);
  }

  LORA_DEVICE static void Load(unsigned char* stage, const SkinnyJob<T>& job, int64_t out0,
                               int64_t depth0) {
    LoadSkinnyZ<SkinnyZByDepth>(stage, job, depth0, out0, job.depth, job.outs);
  }
  LORA_DEVICE static void FillMasks(uint32_t* words, const SkinnyJob<T>& job,
                                    const SkinnyMask (&masks)[kSkinnyOutputs], int64_t out0,
                                    int64_t depth0) {
    FillSkinnyMasks<SkinnyZByDepth>(words, job, masks, depth0, out0);
  }

  LORA_DEVICE static void LoadRaw(SkinnyRaw<T>& raw, const unsigned char* z, int out, int step) {
    const int lane = LaneIndex(), g = lane / 4, q = lane % 4;
    if constexpr (sizeof(T) == 2) {
      LoadMatrixX4Trans(raw.words,
                        z + Chunk(step * 16 + lane / 16 * 8 + lane % 8, out / 8 + lane / 8 % 2));
    } else {
      LORA_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int i = out + g + j % 2 * 8, k = step * 16 + 2 * q + j / 2 * 8;
        LORA_UNROLL
        for (int c = 0; c < 2; ++c)
          raw.words[2 * j + c] =
              *reinterpret_cast<const uint32_t*>(z + Chunk(k + c, i / 4) + i % 4 * 4);
      }
    }
  }

  LORA_DEVICE static uint32_t Kept(const uint32_t* words, int out, int step, int j) {
    constexpr int kWordsPerRow = kCols / 16;
    const int lane = LaneIndex(), g = lane / 4, q = lane % 4;
    const uint32_t* word = words + (step * 16 + 2 * q + j / 2 * 8) * kWordsPerRow + out / 16;
    const int bit = g + j % 2 * 8;
    return (word[0] >> bit & 1u) | (word[kWordsPerRow] >> bit & 1u) << 1;
  }
};

}  // namespace lora::device
