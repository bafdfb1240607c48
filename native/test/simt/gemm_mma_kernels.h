#pragma once

#include <cstdint>

#include "test/simt/queue.h"

namespace lora::simt {

struct GemmCall {
  bool bf16, large_tile, w_by_rows;
  const void* x;
  const void* w;
  void* y;
  int m, n, k;
  int64_t x_pitch, w_pitch, y_pitch;
};
void LaunchGemm(const GemmCall& call, Queue& queue);

}  // namespace lora::simt
