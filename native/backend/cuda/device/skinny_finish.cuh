// The second launch of skinny products adds the partial sums of all splits in order, scales and
// rounds. Its last blocks cast the f32 factors that the next product reads (FactorCast in
// skinny.h), a run of eight columns per thread, so that these need no launch of their own.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

constexpr int kSkinnyOutputs = 32;  // most tiles of one launch

// Stores a float to a matrix whose dtype is known at run time only.
enum class SkinnyDType : int { kF32, kBF16, kF16 };
LORA_DEVICE void StoreAs(SkinnyDType dtype, void* to, int64_t index, float value) {
  if (dtype == SkinnyDType::kF32) {
    static_cast<float*>(to)[index] = value;
  } else if (dtype == SkinnyDType::kBF16) {
    const BF16 rounded = FromFloat<BF16>(value);
    static_cast<BF16*>(to)[index] = rounded;
  } else {
    const F16 rounded = FromFloat<F16>(value);
    static_cast<F16*>(to)[index] = rounded;
  }
}

// Up to 8 ranks of one result:
//   out[i·out_row + r·out_rank] = factor·Σ partial,  t = scale·out
struct SkinnyOutput {
  const float* partial;  // this tile's columns
  int64_t outs, out_row, out_rank, t_pitch, first_block;
  float* out;  // or null
  void* t;     // or null
  float factor, scale;
  int splits, width, ranks, t_columns;  // t gets zeros from ranks to t_columns (8 or 16)
};
constexpr int kSkinnyCasts = 8;  // most of one launch
struct SkinnyCast {
  const float* from;  // [rows, cols] contiguous
  void* to;           // [rows, pitch]
  int64_t rows, cols, pitch, first_block;
};
struct SkinnyFinishParams {
  static constexpr int kThreads = 128, kMinBlocks = 4;
  int outputs, casts;
  SkinnyDType t_dtype;
  int unused;
  SkinnyOutput output[kSkinnyOutputs];
  SkinnyCast cast[kSkinnyCasts];
};

template <class T>
LORA_DEVICE void CastRun(const SkinnyCast& cast, int64_t row, int64_t col) {
  float values[8];
  LoadElements(values, cast.from + row * cast.cols, col, cast.cols);
  StoreElements(static_cast<T*>(cast.to) + row * cast.pitch, col, cast.cols, values);
}

// A block of the casts.
LORA_DEVICE void CastFactors(const SkinnyFinishParams& p) {
  int number = 0;
  while (number + 1 < p.casts && BlockX() >= p.cast[number + 1].first_block) ++number;
  const SkinnyCast& cast = p.cast[number];
  const int64_t runs = (cast.cols + 7) / 8;
  const int64_t index =
      (BlockX() - cast.first_block) * SkinnyFinishParams::kThreads + ThreadIndex();
  if (index >= cast.rows * runs) return;
  if (p.t_dtype == SkinnyDType::kBF16) {
    CastRun<BF16>(cast, index / runs, index % runs * 8);
  } else {
    CastRun<F16>(cast, index / runs, index % runs * 8);
  }
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(SkinnyFinishParams::kThreads, SkinnyFinishParams::kMinBlocks)
    SkinnyFinish(const LORA_GRID_CONSTANT SkinnyFinishParams p) {
  // The next launch may start now: it waits before it reads t and the casts.
  GridLaunchDependents();
  if (p.casts > 0 && BlockX() >= p.cast[0].first_block) return CastFactors(p);
  int number = 0;
  while (number + 1 < p.outputs && BlockX() >= p.output[number + 1].first_block) ++number;
  const SkinnyOutput& o = p.output[number];
  const int64_t i = (BlockX() - o.first_block) * SkinnyFinishParams::kThreads + ThreadIndex();
  if (i >= o.outs) return;
  float sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  constexpr int kAtOnce = 4;
  for (int split = 0; split < o.splits; split += kAtOnce) {
    Vec16 raw[kAtOnce][2];
    LORA_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      if (split + n >= o.splits) continue;
      const float* from = o.partial + ((split + n) * o.outs + i) * o.width;
      raw[n][0] = LoadGlobal16(from);
      raw[n][1] = LoadGlobal16(from + 4);
    }
    LORA_UNROLL
    for (int n = 0; n < kAtOnce; ++n) {
      if (split + n >= o.splits) continue;
      LORA_UNROLL
      for (int r = 0; r < 8; ++r) sums[r] += BitsToFloat(raw[n][r / 4].words[r % 4]);
    }
  }
  LORA_UNROLL
  for (int r = 0; r < 8; ++r) {
    sums[r] *= o.factor;
    if (o.out != nullptr && r < o.ranks) o.out[i * o.out_row + r * o.out_rank] = sums[r];
  }
  if (o.t == nullptr) return;
  LORA_UNROLL
  for (int r = 0; r < 16; ++r) {
    if (r >= o.t_columns) continue;
    StoreAs(p.t_dtype, o.t, i * o.t_pitch + r, r < 8 && r < o.ranks ? sums[r % 8] * o.scale : 0.0f);
  }
}

}  // namespace lora::device
