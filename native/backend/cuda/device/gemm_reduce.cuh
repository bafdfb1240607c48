// c = alpha·factor ⊙ Σ over the slabs of a split product, in order, + bias + addend. A thread
// computes four columns of a row.
#pragma once

#include "backend/cuda/device/gemm_common.cuh"

namespace lora::device {

struct GemmReduceParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  GemmEpilogue out;
  const float* partials;  // [slabs][m][pitch], pitch a multiple of 4
  int64_t pitch;
  int slabs;
};
LORA_KERNEL void LORA_LAUNCH_BOUNDS(GemmReduceParams::kThreads, GemmReduceParams::kMinBlocks)
    GemmReduce(const LORA_GRID_CONSTANT GemmReduceParams p) {
  const int64_t runs = (p.out.n + 3) / 4, m = p.out.m;
  const int64_t index = int64_t{BlockX()} * GemmReduceParams::kThreads + ThreadIndex();
  if (index >= m * runs) return;
  const int64_t row = index / runs;
  const int col = static_cast<int>(index % runs) * 4;
  float sum[4] = {0, 0, 0, 0};
  for (int s = 0; s < p.slabs; ++s) {
    const float* from = p.partials + (s * m + row) * p.pitch + col;
    if (col + 4 <= p.out.n) {
      const Vec16 v = LoadGlobal16(from);
      LORA_UNROLL
      for (int j = 0; j < 4; ++j) sum[j] += BitsToFloat(v.words[j]);
    } else {
      LORA_UNROLL
      for (int j = 0; j < 4; ++j)
        if (col + j < p.out.n) sum[j] += from[j];
    }
  }
  FinishFour(p.out, row, col, sum, ColumnsAt(p.out, col));
  StoreFour(p.out, row, col, sum);
}

}  // namespace lora::device
