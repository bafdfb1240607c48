// A product of logits that leaves no logits: l = alpha·a·bᵀ, or cap·tanh(alpha·a·bᵀ / cap), as what
// a loss and its gradient need of them. For each row and each warp's kWarpN columns:
//   parts   the largest logit m, Σ exp(l − m) and Σ exp(l − m)·(l − m), in f32
//   c       exp(l − m), times the slope 1 − (l / cap)² of a cap, in bf16, where c is not null
// and the logit of the row's label in f32. An exponential relative to m has the relative error of
// one rounding, 2⁻⁹, at any logit; a logit in bf16 would err by up to |l|·2⁻⁹, and its exponential
// by as much relatively. RowLoss makes losses and factors of the parts, by which RowGradient
// multiplies c (cross_entropy.cuh).
#pragma once

#include "backend/cuda/device/gemm_mma.cuh"
#include "backend/cuda/device/kinds.cuh"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/softmax.cuh"

namespace lora::device {

struct LogitsOut {
  RowPart* parts;         // [m, parts_pitch]; columns kWarpN·i … of all logits have part i
  const int32_t* labels;  // [m]
  float* label_logits;    // [m]; rows whose label is no column of this product keep theirs
  int64_t parts_pitch;
  int first;  // the logit of c's first column, a multiple of kWarpN
  float cap;  // 0: none
};

template <class Tile>
struct GemmLogitsParams : GemmParams<Tile> {
  LogitsOut to;
};

template <class Tile>
LORA_DEVICE void StoreLogits(const GemmEpilogue& p, const LogitsOut& to, const GemmPlace& place,
                             const GemmAccumulators<Tile>& acc, float* stages) {
  constexpr int kRuns = EpilogueShared<Tile>::kRuns;
  const float minus_infinity = BitsToFloat(kMinusInfinityBits);
  const int part = (to.first + place.n0) / Tile::kWarpN + WarpIndex() % 2;
  SyncThreads();  // all threads have finished with the stages
  ForRuns<Tile>(place, acc, stages, [&](int64_t row, int col, float(&v)[4]) {
    float largest = minus_infinity;
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) {
      v[j] *= p.alpha;
      if (to.cap != 0) v[j] = unary::Softcap::Value(v[j], to.cap);
      if (col + j >= p.n) v[j] = minus_infinity;
      largest = Max()(largest, v[j]);
    }
    largest = WarpMax<kRuns>(largest);
    const float base = largest == minus_infinity ? 0.0f : largest;
    float e[4], weighted = 0;
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) {
      e[j] = Exp(v[j] - base);
      if (e[j] != 0) weighted += e[j] * (v[j] - base);  // 0·∞ of a column outside
    }
    const float sum = WarpSum<kRuns>((e[0] + e[1]) + (e[2] + e[3]));
    weighted = WarpSum<kRuns>(weighted);
    if (row >= p.m || col >= p.n) return;
    if (LaneIndex() % kRuns == 0) to.parts[row * to.parts_pitch + part] = {largest, sum, weighted};
    const int label = to.labels[row] - to.first;
    LORA_UNROLL
    for (int j = 0; j < 4; ++j)
      if (col + j == label && label < p.n) to.label_logits[row] = v[j];
    if (p.c == nullptr) return;
    LORA_UNROLL
    for (int j = 0; j < 4; ++j) e[j] *= SlopeOfCapped(v[j], to.cap);
    StoreFour(p, row, col, e);
  });
}

template <class T, class Tile>
LORA_KERNEL void LORA_LAUNCH_BOUNDS(Tile::kThreads, Tile::kMinBlocks)
    GemmMmaLogits(const LORA_GRID_CONSTANT GemmLogitsParams<Tile> params) {
  LORA_DYNAMIC_SHARED(shared);
  RunGemmMma<T, Tile, false, true, false>(
      params, shared,
      [&](const GemmEpilogue& p, const GemmPlace& place, const GemmAccumulators<Tile>& acc,
          float* stages) { StoreLogits<Tile>(p, params.to, place, acc, stages); });
}

}  // namespace lora::device
