// Returns where the kernels of attention look for an element, without a launch, because tensors of
// more than 2³¹ elements are too large to run on the emulator.
#pragma once

#include <cstdint>

namespace lora::simt {

struct AttentionSizes {
  int batch, queries, q_heads, kv_heads, d;
};

int64_t QueryOffset(const AttentionSizes& sizes, int b, int kv_head, int row);
int64_t KeyOffset(const AttentionSizes& sizes, int b, int kv_head, int key);
int64_t LseOffset(const AttentionSizes& sizes, int b, int kv_head, int row);

}  // namespace lora::simt
