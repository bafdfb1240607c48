// Casts f32 masters to operands of tensor cores (FactorCast in skinny.h), a run of eight columns a
// thread, in blocks behind the others of a launch that comes before the product which reads them.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/store_as.cuh"

namespace lora::device {

constexpr int kFactorCasts = 8;  // most of one launch

struct FactorCast {
  const float* from;  // [rows, cols] contiguous
  void* to;           // [rows, pitch]
  int64_t rows, cols, pitch;
  int64_t first_block;  // behind those of FactorCasts::first_block
};
struct FactorCasts {
  int64_t first_block;  // of the launch, from which on blocks cast
  StoredDType dtype;    // of 16 bits
  int count;
  FactorCast cast[kFactorCasts];
};

template <class T>
LORA_DEVICE void CastRun(const FactorCast& cast, int64_t row, int64_t col) {
  float values[8];
  LoadElements(values, cast.from + row * cast.cols, col, cast.cols);
  StoreElements(static_cast<T*>(cast.to) + row * cast.pitch, col, cast.cols, values);
}

// Does the work of a block from casts.first_block on, which has kThreads threads.
template <int kThreads>
LORA_DEVICE void CastFactors(const FactorCasts& casts) {
  const int64_t block = BlockX() - casts.first_block;
  int number = 0;
  while (number + 1 < casts.count && block >= casts.cast[number + 1].first_block) ++number;
  const FactorCast& cast = casts.cast[number];
  const int64_t runs = (cast.cols + 7) / 8;
  const int64_t index = (block - cast.first_block) * kThreads + ThreadIndex();
  if (index >= cast.rows * runs) return;
  if (casts.dtype == StoredDType::kBF16) {
    CastRun<BF16>(cast, index / runs, index % runs * 8);
  } else {
    CastRun<F16>(cast, index / runs, index % runs * 8);
  }
}

}  // namespace lora::device
