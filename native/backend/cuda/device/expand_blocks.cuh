// Makes elements of products of a matrix of blocks (core/maths/block_formats.h):
//   y = W, or y[i] = W[ids[i]] where there are ids
// A thread makes one value. The format and the dtype are arguments, because kernels for each would
// take many times the room in the package. What is read is a fraction of what is written.
#pragma once

#include "backend/cuda/device/elements.cuh"
#include "backend/cuda/device/index.cuh"
#include "backend/cuda/device/launch.h"
#include "core/maths/block_formats.h"

namespace lora::device {

struct ExpandBlocksParams {
  static constexpr int kThreads = 256, kMinBlocks = 4;
  const uint8_t* blocks;   // of W [rows, cols]
  const uint16_t* points;  // of the codebook of a format that has one
  const int32_t* ids;      // or null
  void* y;                 // [values / cols, cols], f32 or bf16
  int64_t cols;
  int64_t values;     // of y
  int32_t format;     // WeightFormat
  int32_t log_block;  // of the values of a block
  int32_t block_bytes;
  int32_t is_bf16;
};

LORA_KERNEL void LORA_LAUNCH_BOUNDS(ExpandBlocksParams::kThreads, ExpandBlocksParams::kMinBlocks)
    ExpandBlocks(const LORA_GRID_CONSTANT ExpandBlocksParams p) {
  const int64_t to = GlobalIndex<ExpandBlocksParams::kThreads>();
  if (to >= p.values) return;
  int64_t from = to;
  if (p.ids != nullptr) {
    const auto [row, column] = Divide(to, p.cols);
    from = p.ids[row] * p.cols + column;
  }
  const uint8_t* const block = p.blocks + (from >> p.log_block) * p.block_bytes;
  const int at = static_cast<int>(from & ((int64_t{1} << p.log_block) - 1));
  const int group = at / kGroupValues, i = at % kGroupValues;
  GroupScale of{};
  int code = 0;
  ForBlocks(static_cast<WeightFormat>(p.format), [&]<class Decoder>(Decoder) {
    of = Decoder::ScaleOf(block, group);
    code = CodeOf<Decoder>(block, group, i, p.points);
  });
  const float value = MulRounded(of.scale, static_cast<float>(code)) + of.offset;
  if (p.is_bf16 != 0) {
    static_cast<BF16*>(p.y)[to] = FromFloat<BF16>(value);
  } else {
    static_cast<float*>(p.y)[to] = value;
  }
}

}  // namespace lora::device
