// The low-rank halves of LoRA: products with one small side, and the linear layer of decoding.
//
// All of it computes as if in f32: f32 operands (masters, h, u) are never rounded, and sums are
// f32. Scratch is device memory at a multiple of 16 bytes. A plan, with the size of the scratch, is
// a pure function of the arguments without their pointers and of the number of
// multiprocessors (Context::threads()). The order of every sum follows from it, so that two runs
// give the same bits. Pointers need only be aligned to their element. Any rank ≥ 1 works; any other
// size may be 0.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "backend/cuda/skinny_plan.h"
#include "core/ops/backend.h"

namespace lora::cuda {

// The T operand of a rank has this many columns: a multiple of 16, with zeros after the rank.
constexpr int64_t PaddedRank(int64_t rank) { return (rank + 15) / 16 * 16; }

// One adapter of a LowRankDown: p = drop(z)·small is [m, rank].
struct LowRankDownTerm {
  const float* small = nullptr;  // down [rank, k], or with by_columns up [k, rank]; contiguous
  int64_t rank = 0;
  Dropout dropout;     // on z; inactive for u
  float* h = nullptr;  // [m, rank] p, unscaled; or null
  // Receives scale·p [m, PaddedRank(rank)], rounded once, with zeros after the rank; or null.
  // Columns beyond are not written, so that several terms may lie side by side in one matrix.
  void* t = nullptr;
  int64_t t_pitch = 0;  // elements
  float scale = 1;
};
// One z and the adapters that share it, so that q, k and v read x once.
struct LowRankDownProblem {
  const void* z = nullptr;          // [m, k] of the dtype of the call
  int64_t m = 0, k = 0, pitch = 0;  // pitch in elements
  std::vector<LowRankDownTerm> terms;
};
// A master [rows, cols] that the product after a LowRankDown takes as operand of tensor cores:
//   to[row, col] = from[row, col], rounded
// What is between the columns and the pitch is neither written nor read.
struct FactorCast {
  const float* from = nullptr;
  void* to = nullptr;  // rows start at multiples of 16 bytes
  int64_t rows = 0, cols = 0, pitch = 0;
};
//   H = drop(X)·downᵀ with by_columns false: small is down [rank, k]
//   U = G·up          with by_columns true:  small is up [k, rank]
// All problems share one launch. Where k is split, the last block to have partial sums adds them.
struct LowRankDownArgs {
  DType dtype = DType::kF32;    // of every z: f32, bf16, f16
  DType t_dtype = DType::kF32;  // of every t
  bool by_columns = false;
  std::vector<LowRankDownProblem> problems;
  std::vector<FactorCast> casts;  // to t_dtype, of 16 bits; in the same launch where there is room
};
LowRankPlan PlanLowRankDown(const LowRankDownArgs& args, int multiprocessors);
void LowRankDown(const LowRankDownArgs& args, const LowRankPlan& plan, Scratch scratch,
                 Context& context);

// out = scale·Σ over rows of p[row]ᵀ·drop(z)[row]. It is written whole:
//   d_down [rank, cols] from p = u, z = x
//   d_up [cols, rank] from p = h, z = g, with by_columns
struct LowRankGradient {
  const void* z = nullptr;  // [m, cols] of the dtype of the call
  int64_t m = 0, cols = 0, pitch = 0;
  Dropout dropout;           // on z
  const float* p = nullptr;  // [m, rank] contiguous, unscaled
  int64_t rank = 0;
  float scale = 1;
  float* out = nullptr;
  bool by_columns = false;
};
// All gradients of an op share one launch. Neighbors in the list with the same z (the d_down
// of q, k and v) share one read of it.
struct LowRankGradientsArgs {
  DType dtype = DType::kF32;
  std::vector<LowRankGradient> gradients;
};
LowRankPlan PlanLowRankGradients(const LowRankGradientsArgs& args, int multiprocessors);
void LowRankGradients(const LowRankGradientsArgs& args, const LowRankPlan& plan, Scratch scratch,
                      Context& context);

// Computes y = factor ⊙ (W·x + scale·up·h) + bias for few rows and every branch. A launch takes up
// to kMaxDecodeRows rows and reads each W once. h comes from LowRankDown. Only y is rounded.
constexpr int64_t kMaxDecodeRows = 16;
// More rows take several launches. That pays where W is DecodeBranch::packed: 64 rows read 18 bits
// for a value of NF4 or Q4_K, while expanding it first moves 36.5 and takes scratch for 16.
constexpr int64_t kMaxPackedDecodeRows = 64;
struct DecodeBranch {
  const void* w = nullptr;  // [n, k] row-major, contiguous
  // In which w is stored: the dtype of the call, or also 16 bits where that is f32.
  DType w_dtype = DType::kF32;
  PackedView packed{};  // in the place of w: W [n, k] that DecodesPacked
  int64_t n = 0;
  const float* factor = nullptr;  // [n], or null
  const void* bias = nullptr;     // [n] f32 or of the dtype of the call; or null
  bool bias_f32 = false;
  const float* a = nullptr;  // up [n, rank], or null
  const float* h = nullptr;  // [m, rank] unscaled
  int64_t rank = 0;
  float scale = 1;
  void* y = nullptr;  // [m, n]
  // In a call with slots, in the place of a: the entry of slot 0. h is [m, rank] with the largest
  // rank of the table, and scaled.
  const DeltaEntry* site = nullptr;
};
struct DecodeArgs {
  DType dtype = DType::kF32;
  const void* x = nullptr;  // [m, k]
  int64_t m = 0, k = 0;
  std::vector<DecodeBranch> branches;
  const int32_t* slots = nullptr;  // [m], or null
  int64_t sites = 0;               // between the entries of two slots
  // Of all launches (LaunchShape::programmatic). Before the kernels wait they read all but h, which
  // the launch before may write.
  bool programmatic = false;
};
void DecodeLinear(const DecodeArgs& args, Context& context);
// The formats of blocks that a kernel of decoding reads (device/decode_blocks.cuh): those of the
// quantized files that people share most. Further ones would each add two kernels to the package.
inline constexpr WeightFormat kDecodedBlocks[] = {
    WeightFormat::kQ4_0, WeightFormat::kQ8_0,   WeightFormat::kQ4_K, WeightFormat::kQ5_K,
    WeightFormat::kQ6_K, WeightFormat::kIQ4_NL, WeightFormat::kMXFP4};
// Whether a weight is decoded as DecodeBranch::packed. Other quantized ones are expanded: the other
// blocks, those under f32 activations, and scaled ones whose rows are not of whole eights, which
// would double the kernel.
inline bool DecodesPacked(const PackedView& w) {
  if (w.dtype != DType::kBF16) return false;
  if (HasScales(w.format)) return w.cols % 8 == 0;
  return std::ranges::find(kDecodedBlocks, w.format) != std::end(kDecodedBlocks);
}

}  // namespace lora::cuda
