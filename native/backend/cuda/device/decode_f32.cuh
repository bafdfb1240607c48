// Computes the linear layer for up to 16 rows of x in f32. Reading W takes the time.
//
// y[m, o] = factor[o]·(Σ x[m]·W[o] + scale·Σ up[o]·h[m]) + bias[o], or with Σ up_m[o]·h[m] where
// row m has the up of its slot in a table
// A warp owns 4 rows of W, its lanes take turns of 4 columns, and sums are reduced over the lanes.
// W may be stored in 16 bits. A lane has the same columns then, so that y has the bits of the same
// W in f32.
#pragma once

#include "backend/cuda/device/any_elements.cuh"
#include "backend/cuda/device/decode.cuh"

namespace lora::device {

template <int kM>
struct DecodeF32Params {
  static constexpr int kThreads = 128, kMinBlocks = kM == 1 ? 6 : 4;
  static constexpr bool kWaits = true;
  static constexpr int kWarpRows = 4, kRows = kThreads / 32 * kWarpRows;
  const float* x;
  int64_t k, sites;
  const int32_t* slots;  // [m], or null
  int m, branches;
  DecodeOutputs branch[kDecodeBranches];
};

template <int kM>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(DecodeF32Params<kM>::kThreads, DecodeF32Params<kM>::kMinBlocks)
    DecodeF32(const LORA_GRID_CONSTANT DecodeF32Params<kM> p) {
  using P = DecodeF32Params<kM>;
  int number = 0;
  while (number + 1 < p.branches && BlockX() >= p.branch[number + 1].first_block) ++number;
  const DecodeOutputs& o = p.branch[number];
  const int64_t row0 = (BlockX() - o.first_block) * P::kRows + WarpIndex() * P::kWarpRows;
  const int lane = LaneIndex();
  const bool narrow = o.w_dtype != DType::kF32;
  const unsigned char* w[P::kWarpRows];
  LORA_UNROLL
  for (int r = 0; r < P::kWarpRows; ++r) {
    w[r] = static_cast<const unsigned char*>(o.w) +
           (row0 + r < o.n ? row0 + r : o.n - 1) * p.k * (narrow ? 2 : 4);
  }
  const bool aligned = p.k % 4 == 0 && IsAligned16(o.w);

  float acc[P::kWarpRows][kM];
  LORA_UNROLL
  for (int r = 0; r < P::kWarpRows; ++r) {
    LORA_UNROLL
    for (int m = 0; m < kM; ++m) acc[r][m] = 0.0f;
  }
  // With few sums, registers are left for more loads in flight.
  constexpr int kGroups = kM == 1 ? 2 : 1;
  for (int64_t k0 = 0; k0 < p.k; k0 += kGroups * 128) {
    RawFour ws[kGroups][P::kWarpRows];
    if (!aligned || k0 + kGroups * 128 > p.k) {
      LORA_UNROLL
      for (int n = 0; n < kGroups; ++n) {
        LORA_UNROLL
        for (int r = 0; r < P::kWarpRows; ++r)
          ws[n][r] = LoadFour({w[r], o.w_dtype}, k0 + n * 128 + lane * 4, p.k, aligned);
      }
    } else if (narrow) {
      LORA_UNROLL
      for (int n = 0; n < kGroups; ++n) {
        LORA_UNROLL
        for (int r = 0; r < P::kWarpRows; ++r) {
          const Vec8 v = LoadGlobalStream8(w[r] + (k0 + n * 128 + lane * 4) * 2);
          ws[n][r] = {{v.words[0], v.words[1], 0, 0}};
        }
      }
    } else {
      LORA_UNROLL
      for (int n = 0; n < kGroups; ++n) {
        LORA_UNROLL
        for (int r = 0; r < P::kWarpRows; ++r) {
          const Vec16 v = LoadGlobalStream16(w[r] + (k0 + n * 128 + lane * 4) * 4);
          ws[n][r] = {{v.words[0], v.words[1], v.words[2], v.words[3]}};
        }
      }
    }
    if (narrow) {
      LORA_UNROLL
      for (int n = 0; n < kGroups; ++n) {
        LORA_UNROLL
        for (int r = 0; r < P::kWarpRows; ++r) Widen(ws[n][r], o.w_dtype);
      }
    }
    LORA_UNROLL
    for (int n = 0; n < kGroups; ++n) {
      LORA_UNROLL
      for (int m = 0; m < kM; ++m) {
        if (m >= p.m) continue;
        const Vec16 xs = LoadTail16(p.x + m * p.k, k0 + n * 128 + lane * 4, p.k);
        LORA_UNROLL
        for (int r = 0; r < P::kWarpRows; ++r) {
          LORA_UNROLL
          for (int j = 0; j < 4; ++j)
            acc[r][m] = Fma(BitsToFloat(ws[n][r].words[j]), BitsToFloat(xs.words[j]), acc[r][m]);
        }
      }
    }
  }
  // The launch before this one has written h, so reading h must wait for it.
  GridDependencyWait();
  if (o.a != nullptr) {
    for (int j = lane; j < o.rank; j += 32) {
      float a[P::kWarpRows];
      LORA_UNROLL
      for (int r = 0; r < P::kWarpRows; ++r)
        a[r] = row0 + r < o.n ? o.scale * o.a[(row0 + r) * o.rank + j] : 0.0f;
      LORA_UNROLL
      for (int m = 0; m < kM; ++m) {
        if (m >= p.m) continue;
        const float h = o.h[int64_t{m} * o.rank + j];
        LORA_UNROLL
        for (int r = 0; r < P::kWarpRows; ++r) acc[r][m] = Fma(a[r], h, acc[r][m]);
      }
    }
  } else if (o.site != nullptr) {
    LORA_UNROLL
    for (int m = 0; m < kM; ++m) {
      if (m >= p.m) continue;
      const DeltaEntry entry = EntryOf(o, p.slots, p.sites, m);
      for (int j = lane; j < entry.rank; j += 32) {
        const float h = o.h[int64_t{m} * o.rank + j];
        LORA_UNROLL
        for (int r = 0; r < P::kWarpRows; ++r) {
          if (row0 + r < o.n)
            acc[r][m] = Fma(UpOf(entry)[(row0 + r) * entry.rank + j], h, acc[r][m]);
        }
      }
    }
  }
  // Lane i stores sums i, i + 32, …, numbered with the rows of x outermost.
  constexpr int kSums = P::kWarpRows * kM, kEach = (kSums + 31) / 32;
  float mine[kEach];
  LORA_UNROLL
  for (int e = 0; e < kEach; ++e) mine[e] = 0.0f;
  LORA_UNROLL
  for (int m = 0; m < kM; ++m) {
    if (m >= p.m) continue;
    LORA_UNROLL
    for (int r = 0; r < P::kWarpRows; ++r) {
      const int index = m * P::kWarpRows + r;
      const float sum = WarpSum(acc[r][m]);
      if (index % 32 == lane) mine[index / 32] = sum;
    }
  }
  LORA_UNROLL
  for (int e = 0; e < kEach; ++e) {
    const int index = e * 32 + lane, m = index / P::kWarpRows;
    const int64_t row = row0 + index % P::kWarpRows;
    if (m < p.m && m < kM && row < o.n)
      static_cast<float*>(o.y)[m * o.n + row] =
          mine[e] * OutputFactor(o, p.slots, p.sites, m, row) + DecodeBias<float>(o, row);
  }
}

}  // namespace lora::device
