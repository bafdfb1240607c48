// Casts f32 matrices to 16-bit ones whose rows start at multiples of 16 bytes, which makes A and B
// operands of tensor cores for any rank. One launch casts all matrices of an op. A thread casts
// eight columns of a row; what is between the columns and the pitch is neither written nor read.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/launch.h"

namespace lora::device {

constexpr int kCastJobs = 8;

struct CastJob {
  const float* from;  // [rows, cols] contiguous
  void* to;           // [rows, pitch]
  int64_t rows, cols, pitch;
  int64_t first_block;
};

struct CastFactorsParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  CastJob job[kCastJobs];
  int jobs;
  int bf16;  // a bool would leave padding (gemm_common.cuh)
};

template <class T>
LORA_DEVICE void CastRun(const CastJob& job, int64_t row, int64_t col) {
  float values[8];
  LoadElements(values, job.from + row * job.cols, col, job.cols);
  StoreElements(static_cast<T*>(job.to) + row * job.pitch, col, job.cols, values);
}

LORA_KERNEL void LORA_LAUNCH_BOUNDS(CastFactorsParams::kThreads, CastFactorsParams::kMinBlocks)
    CastFactors(const LORA_GRID_CONSTANT CastFactorsParams p) {
  int which = 0;
  while (which + 1 < p.jobs && BlockX() >= p.job[which + 1].first_block) ++which;
  const CastJob& job = p.job[which];
  const int64_t runs = (job.cols + 7) / 8;
  const int64_t index = (BlockX() - job.first_block) * CastFactorsParams::kThreads + ThreadIndex();
  if (index >= job.rows * runs) return;
  if (p.bf16 != 0) {
    CastRun<BF16>(job, index / runs, index % runs * 8);
  } else {
    CastRun<F16>(job, index / runs, index % runs * 8);
  }
}

}  // namespace lora::device
