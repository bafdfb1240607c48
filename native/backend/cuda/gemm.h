// Multiplies matrices for the other ops: c = alpha·factor ⊙ Σ over segments of a·b, + bias,
// + addend, with f32 accumulators and one rounding. Two 16-bit operands of one dtype use tensor
// cores, if at most one of them is transposed, or with dropout none. Everything else uses f32
// multiply-adds.
#pragma once

#include <optional>
#include <vector>

#include "core/ops/backend.h"

namespace lora::cuda {

// The most rows of c for which expanding codes in the product pays. Every 128 rows expand them
// again, which by count takes a GeForce no time beside the products; larger GPUs multiply 512 rows
// about as fast with an expansion of all of b before them.
inline constexpr int64_t kMaxCodedRows = 512;

// One pair of factors. A list of them is a product of matrices that are concatenated along k:
// [a0 | a1]·[b0 ; b1].
struct GemmSegment {
  const void* a = nullptr;  // [m, k] row-major, or [k, m] with trans_a
  const void* b = nullptr;  // [k, n] row-major, or [n, k] with trans_b
  int64_t k = 0;
  int64_t a_pitch = 0, b_pitch = 0;  // elements from one row to the next
  // If active, element (row, column) of this product gets the dropout of the same element of the
  // LoRA path's input: it is dropped or scaled (philox.h).
  Dropout dropout;
  // Set where the launch before this one writes the segment.
  bool late = false;
  // The dtype in which b is stored, where it is another than the b_dtype of the problem: 16 bits of
  // an f32 operand (a frozen weight). Its values, the plan and the result are those of b in f32.
  std::optional<DType> b_stored{};
  // Set where b has codes of 4 bits, with these scales (device/gemm_coded.cuh). That is for the
  // first segment of a problem, of a k that is a multiple of 64, with rows at multiples of 16
  // bytes.
  const float* b_scales = nullptr;
};

// What a product of logits leaves (device/gemm_logits.cuh).
struct GemmLogits {
  float cap = 0;      // of the logits; 0: none
  int64_t first = 0;  // the logit of c's first column, a multiple of PartColumns(plan)
  // [m, parts_pitch] of three f32: the largest logit of PartColumns(plan) columns, the sum of
  // exponentials relative to it, and that of their products with what they are exponentials of.
  float* parts = nullptr;
  int64_t parts_pitch = 0;
  const int32_t* labels = nullptr;  // [m]
  float* label_logits = nullptr;    // [m]
};

struct GemmProblem {
  int64_t m = 0, n = 0;
  DType a_dtype = DType::kF32, b_dtype = DType::kF32, c_dtype = DType::kF32;
  bool trans_a = false, trans_b = false;
  std::vector<GemmSegment> segments;  // any number, of any k; without segments the sum is 0
  float alpha = 1;
  const float* factor = nullptr;  // [n], a factor of each column, or absent
  const void* bias = nullptr;     // [n] of any float dtype, or absent
  DType bias_dtype = DType::kF32;
  // An f32 [m, n] with pitch addend_pitch that is added after alpha, or null. It may be c itself
  // where c is f32: then the product is accumulated into c.
  const float* addend = nullptr;
  int64_t addend_pitch = 0;
  void* c = nullptr;  // [m, n]; may be null with `logits`
  int64_t c_pitch = 0;
  // The product runs `batches` times. *_batch counts the elements from one batch to the next, 0 for
  // an operand that all batches share. Batches need one segment and no addend.
  int64_t batches = 1;
  int64_t a_batch = 0, b_batch = 0, c_batch = 0;
  // What the codes stand for, [16], where a segment has b_scales. This is for c = a·bᵀ in bf16.
  const float* codes = nullptr;
  // Where set, c gets exponentials of logits in place of alpha·a·bᵀ. This is for bf16, and for
  // products to which nothing is added; they are not split.
  std::optional<GemmLogits> logits{};
  int tile = 0;  // that the plan takes; 0: the fastest
  // Of the first launch (LaunchShape::programmatic). Before the kernels wait they read all segments
  // but the late ones, which the launch before it may write.
  bool programmatic = false;
};

struct GemmPlan;
struct GemmGroupPlan;

// Runs a problem by its plan (gemm_plan.h), which is of the same problem with or without pointers.
// `op` names the op in errors. Any alignment and pitch works; multiples of 16 bytes are fast.
void Gemm(const char* op, const GemmProblem& problem, const GemmPlan& plan, Scratch scratch,
          Context& context);

// Several products of the same dtypes and transpositions, without batches, addends or dropout, fill
// the device better together (q, k and v). They share one launch where that is faster.
// `programmatic` is taken from the first one that has elements.
void GemmGroup(const char* op, const std::vector<GemmProblem>& problems, const GemmGroupPlan& plan,
               Scratch scratch, Context& context);

}  // namespace lora::cuda
