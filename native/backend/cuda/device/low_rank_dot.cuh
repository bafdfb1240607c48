// h[m, r] = Σ drop(x)[m]·down[r] for up to 16 rows of x. A block of 256 threads computes one
// element of h. The last blocks of a launch cast factors (cast_factors.cuh).
#pragma once

#include "backend/cuda/device/cast_factors.cuh"
#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/launch.h"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/skinny_job.cuh"
#include "core/maths/philox.h"

namespace lora::device {

constexpr int kDotTerms = 16;

struct DotTerm {
  const void* x;  // [m, k]
  int64_t x_pitch, k;
  const float* b;  // [rank, k]
  float* h;        // [m, rank], or null
  void* t;         // [m, columns], or null
  int64_t t_pitch;
  int64_t first_block;
  int m, rank, columns;  // columns ≥ rank; t gets zeros from rank on
  int masked;
  float factor, scale;  // h = factor·Σ, t = scale·h
  SkinnyMask mask;
};
template <class T>
struct LowRankDotParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(float);
  int terms;
  StoredDType t_dtype;
  DotTerm term[kDotTerms];
  FactorCasts casts;
};
static_assert(sizeof(LowRankDotParams<BF16>) <= 4096);  // as those of skinny.cuh

template <class T>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(LowRankDotParams<T>::kThreads, LowRankDotParams<T>::kMinBlocks)
    LowRankDot(const LORA_GRID_CONSTANT LowRankDotParams<T> p) {
  LORA_DYNAMIC_SHARED(shared);
  constexpr int kThreads = LowRankDotParams<T>::kThreads;
  GridLaunchDependents();
  if (BlockX() >= p.casts.first_block) return CastFactors<kThreads>(p.casts);
  int number = 0;
  while (number + 1 < p.terms && BlockX() >= p.term[number + 1].first_block) ++number;
  const DotTerm& term = p.term[number];
  const int block = static_cast<int>(BlockX() - term.first_block);
  const int row = block / term.columns, r = block % term.columns;
  float sum = 0.0f;
  if (r < term.rank) {
    const T* x = static_cast<const T*>(term.x) + row * term.x_pitch;
    const float* b = term.b + r * term.k;
    for (int64_t k = ThreadIndex() * 8; k < term.k; k += kThreads * 8) {
      float xs[8], bs[8];
      LoadElements(xs, x, k, term.k);
      LoadElements(bs, b, k, term.k);
      if (term.masked != 0) {
        const PhiloxWords random =
            Philox4x32(term.mask.seed, {static_cast<uint32_t>(k / 8), static_cast<uint32_t>(row),
                                        term.mask.layer, term.mask.forward});
        LORA_UNROLL
        for (int j = 0; j < 8; ++j)
          if (!DropoutKeeps(random, j, term.mask.threshold)) xs[j] = 0.0f;
      }
      LORA_UNROLL
      for (int j = 0; j < 8; ++j) sum = Fma(xs[j], bs[j], sum);
    }
  }
  sum = BlockSum<kThreads>(sum, reinterpret_cast<float*>(shared)) * term.factor;
  if (ThreadIndex() != 0) return;
  if (term.h != nullptr && r < term.rank) term.h[int64_t{row} * term.rank + r] = sum;
  if (term.t != nullptr)
    StoreAs(p.t_dtype, term.t, row * term.t_pitch + r, r < term.rank ? sum * term.scale : 0.0f);
}

}  // namespace lora::device
