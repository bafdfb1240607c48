// norm = √(Σ x²) over many tensors
// clip:  x ← x·min(1, max_norm/(norm + 1e-6))
// Squares and sums are f64, which does not overflow. A block leaves the sum of its piece in
// scratch, and one block adds those sums, always in the same order.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/segments.cuh"

namespace lora::device {

using TensorList = SegmentList<PlainSegment<1>, 160>;

struct SumSquaresParams {
  static constexpr int kThreads = 256, kMinBlocks = 4, kPerBlock = 16384;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(double);
  TensorList list;
  double* sums;  // [blocks]
};
static_assert(sizeof(SumSquaresParams) <= 4096);

LORA_KERNEL void LORA_LAUNCH_BOUNDS(SumSquaresParams::kThreads, SumSquaresParams::kMinBlocks)
    SumSquares(const LORA_GRID_CONSTANT SumSquaresParams p) {
  using P = SumSquaresParams;
  LORA_DYNAMIC_SHARED(shared);
  const Piece piece = PieceOf<P::kPerBlock>(p.list, static_cast<uint32_t>(BlockX()));
  const auto& segment = p.list.segments[piece.index];
  double even = 0, odd = 0;
  for (int64_t i = piece.begin + ThreadIndex() * 4; i < piece.end; i += P::kThreads * 4) {
    float x[4];
    LoadElements(x, segment.data[0], i, segment.count);
    LORA_UNROLL
    for (int j = 0; j < 4; j += 2) {
      const double a = x[j], b = x[j + 1];
      even += a * a;
      odd += b * b;
    }
  }
  const double sum = BlockSum<P::kThreads>(even + odd, reinterpret_cast<double*>(shared));
  if (ThreadIndex() == 0) p.sums[BlockX()] = sum;
}

struct NormParams {
  static constexpr int kThreads = 512, kMinBlocks = 1;
  static constexpr size_t kSharedBytes = kThreads / 32 * sizeof(double);
  const double* sums;
  int64_t count;
  float* norm;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(NormParams::kThreads, NormParams::kMinBlocks)
    Norm(const LORA_GRID_CONSTANT NormParams p) {
  LORA_DYNAMIC_SHARED(shared);
  double sum = 0;
  for (int64_t i = ThreadIndex(); i < p.count; i += NormParams::kThreads) sum += p.sums[i];
  sum = BlockSum<NormParams::kThreads>(sum, reinterpret_cast<double*>(shared));
  if (ThreadIndex() == 0) *p.norm = static_cast<float>(Sqrt(sum));
}

struct ClipParams {
  static constexpr int kThreads = 256, kMinBlocks = 4, kPerBlock = 4096;
  TensorList list;
  const float* norm;
  double max_norm;  // f64 leaves no padding
};
static_assert(sizeof(ClipParams) <= 4096);

LORA_KERNEL void LORA_LAUNCH_BOUNDS(ClipParams::kThreads, ClipParams::kMinBlocks)
    Clip(const LORA_GRID_CONSTANT ClipParams p) {
  using P = ClipParams;
  const float norm = *p.norm;
  const bool finite = (FloatToBits(norm) & 0x7f800000u) != 0x7f800000u;
  float factor = static_cast<float>(p.max_norm) / (norm + 1e-6f);
  if (finite && factor >= 1) return;               // nothing is read or written
  if (!finite) factor = BitsToFloat(0x7fc00000u);  // every element becomes NaN, visibly
  const Piece piece = PieceOf<P::kPerBlock>(p.list, static_cast<uint32_t>(BlockX()));
  const auto& segment = p.list.segments[piece.index];
  for (int64_t i = piece.begin + ThreadIndex() * 4; i < piece.end; i += P::kThreads * 4) {
    float x[4];
    LoadElements(x, segment.data[0], i, segment.count);
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) x[j] *= factor;
    StoreElements(segment.data[0], i, segment.count, x);
  }
}

}  // namespace lora::device
