// Products of matrices for the other ops: c = alpha·Σ over segments of a·b, + bias, + addend, with
// f32 accumulators and one rounding. Two 16-bit operands of one dtype go through tensor cores,
// everything else through f32 multiply-adds.
#pragma once

#include <vector>

#include "core/backend.h"

namespace lora::cuda {

// One pair of factors; a list of them is a product of matrices glued together along k,
// [a0 | a1]·[b0 ; b1].
struct GemmSegment {
  const void* a = nullptr;  // [m, k] row-major, or [k, m] with trans_a
  const void* b = nullptr;  // [k, n] row-major, or [n, k] with trans_b
  int64_t k = 0;
  int64_t a_pitch = 0, b_pitch = 0;  // elements from one row to the next
  // Where active, element (row, column) of this product counts as if it were an element of the
  // input of the LoRA path: dropped, or scaled up (philox.h).
  Dropout dropout;
  // Written by the launch before this one: see GemmProblem::programmatic.
  bool late = false;
};

struct GemmProblem {
  int64_t m = 0, n = 0;
  DType a_dtype = DType::kF32, b_dtype = DType::kF32, c_dtype = DType::kF32;
  bool trans_a = false, trans_b = false;
  std::vector<GemmSegment> segments;  // any number, of any k; none give 0
  float alpha = 1;
  const void* bias = nullptr;  // [n] of any float dtype, or absent
  DType bias_dtype = DType::kF32;
  // f32 [m, n] with pitch addend_pitch, added after alpha, or absent. May be c itself where that is
  // f32: then c is accumulated into.
  const float* addend = nullptr;
  int64_t addend_pitch = 0;
  void* c = nullptr;  // [m, n]
  int64_t c_pitch = 0;
  // The same product `batches` times: elements from one batch to the next, 0 for an operand that
  // all share. Only without an addend and with one segment.
  int64_t batches = 1;
  int64_t a_batch = 0, b_batch = 0, c_batch = 0;
  // The launch may start before the one before it has ended, which must itself be an ordinary
  // launch that lets its dependents start and writes nothing but segments marked late.
  bool programmatic = false;
};

// Depends on shapes, dtypes and `multiprocessors` only; pointers may still be null. Often 0.
size_t GemmScratchBytes(const GemmProblem& problem, int multiprocessors);
// `op` names the op in errors. Any alignment and pitch works; multiples of 16 bytes are fast.
void Gemm(const char* op, const GemmProblem& problem, Scratch scratch, Context& context);

// Several products of the same dtypes and transpositions, without batches or addends, which
// together fill the device better: q, k and v. In one launch where that is faster. `programmatic`
// is that of the first one that has elements.
size_t GemmGroupScratchBytes(const std::vector<GemmProblem>& problems, int multiprocessors);
void GemmGroup(const char* op, const std::vector<GemmProblem>& problems, Scratch scratch,
               Context& context);

}  // namespace lora::cuda
