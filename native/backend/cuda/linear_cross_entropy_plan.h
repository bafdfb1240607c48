// Plans how the rows of linear_cross_entropy are split into chunks, and the scratch. Plans depend
// on the problem and the number of multiprocessors alone, so that two runs give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/gemm.h"

namespace lora::cuda {

struct LinearCrossEntropyPlan {
  // Products are made only of multiples of this many rows, so that few sizes decide how much
  // scratch they need.
  static constexpr int64_t kRowStep = 64;

  int64_t rows = 0, dim = 0, vocab = 0;
  DType dtype = DType::kF32;   // of hidden and, as the products see it, weight
  DType stored = DType::kF32;  // of weight, as the products read it
  bool gradient = false;
  float scale = 1;  // of the logits
  float cap = 0;    // of the scaled logits; 0: none

  // Bytes of logits in a chunk, and of values of W that are expanded at once: 256 rows of 150,000
  // f32 logits, or twice as many in bf16, are enough to pay for reading W twice, and the head of an
  // 8B model would take a gigabyte. LORA_CUDA_LOSS_BYTES sets others.
  static constexpr size_t kLossBytes = size_t{160} << 20;
  static constexpr int64_t kMinChunk = 128, kMaxChunk = 1024;

  // Tells whether the product leaves exponentials and parts in place of logits (GemmLogits).
  bool in_parts() const { return dtype == DType::kBF16; }

  int64_t slice = 0;  // rows of W that are expanded at once: all, or a multiple of kBlockValues
  int64_t chunk = 0;  // rows whose logits are held at once, at most; a multiple of kRowStep
  int64_t pitch = 0;  // elements from one row of logits, and of their gradients, to the next

  // Offsets in scratch, all multiples of 256 bytes.
  size_t check = 0;     // what CheckIds needs
  size_t row_list = 0;  // [rows] i32, the rows that count
  size_t losses = 0;    // [rows] f64 of the rows that count
  size_t labels = 0;    // [chunk] i32
  size_t of_row = 0;    // [chunk] f32: the log-sums, or with parts the logits of the labels
  size_t hidden = 0;    // [chunk, dim]
  size_t logits = 0;    // [chunk, pitch], and their gradients; with parts for these alone
  size_t d_hidden = 0;  // [chunk, dim] f32
  size_t weight = 0;    // [slice, dim] of a weight that is expanded
  size_t parts = 0;     // [chunk, vocab / PartColumns] of three f32
  size_t product = 0;   // scratch of the products
  size_t bytes = 0;

  // Return how many chunks `counted` rows make, and how many of the rows chunk i has.
  int64_t ChunksOf(int64_t counted) const;
  int64_t RowsOf(int64_t counted, int64_t i) const;

  // Return the products of n rows of W without pointers: [m, dim]·Wᵀ and [m, n]·W. Those of all
  // slices need the tile of the first, so that their parts have as many columns.
  GemmProblem Logits(int64_t m, int64_t n) const;
  GemmProblem HiddenGradient(int64_t m, int64_t n) const;
};

LinearCrossEntropyPlan PlanLinearCrossEntropy(const LinearCrossEntropyArgs& args,
                                              int multiprocessors);

}  // namespace lora::cuda
