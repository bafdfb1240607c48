// Launches the kernel that rotates heads, for the ops that do.
#pragma once

#include "backend/cuda/context.h"
#include "core/ops/tensor_view.h"

namespace lora::cuda {

struct RopeCall {
  TensorView q, rotated_q;
  TensorView k, rotated_k;  // or absent; rotated_k is a pool where there are pages
  TensorView v, v_pool;     // or absent
  TensorView cos, sin;
  // The positions of the tokens; without either, offset + index in the sequence.
  TensorView positions;
  TensorView page_table, lengths;
  TensorView table_start;  // of pages, or absent
  int64_t offset = 0;
  bool inverse = false;
};

// The positions, or the lengths and pages, have been checked.
void LaunchRope(const char* op, const RopeCall& call, Context& context);

}  // namespace lora::cuda
