// Converts the arguments of attention to what the kernels take. Only .cu files include this.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "backend/cuda/attention_plan.h"
#include "backend/cuda/device/attention.cuh"
#include "backend/cuda/launch.h"

namespace lora::cuda {

// Calls f.template operator()<64, 128 or 256>().
template <class F>
void ForHeadDim(int64_t d, F&& f) {
  switch (PaddedHeadDim(d)) {
    case 64:
      return f.template operator()<64>();
    case 128:
      return f.template operator()<128>();
    default:
      return f.template operator()<256>();
  }
}

// Tells whether rows of d 16-bit elements, one after another, all start at multiples of 16 bytes.
inline bool AreAligned(int64_t d, std::initializer_list<const void*> tensors) {
  return d % 8 == 0 && std::all_of(tensors.begin(), tensors.end(), [](const void* p) {
           return reinterpret_cast<uintptr_t>(p) % 16 == 0;
         });
}

// What does not depend on where the keys lie.
inline device::AttentionShape ShapeOf(const TensorView& q, int64_t kv_heads, int64_t window,
                                      float scale) {
  device::AttentionShape s{};
  s.batch = static_cast<int>(q.dim(0));
  s.queries = static_cast<int>(q.dim(1));
  s.q_heads = static_cast<int>(q.dim(2));
  s.kv_heads = static_cast<int>(kv_heads);
  s.group = s.kv_heads == 0 ? 0 : s.q_heads / s.kv_heads;
  s.d = static_cast<int>(q.dim(3));
  s.rows = s.queries * s.group;
  s.window = static_cast<int>(std::min<int64_t>(window, std::numeric_limits<int>::max()));
  s.scale = scale;
  s.scale_log2 = static_cast<float>(scale * 1.4426950408889634);
  return s;
}

template <class Args>
device::AttentionShape ShapeOf(const Args& args) {
  device::AttentionShape s = ShapeOf(args.q, args.k.dim(2), args.window, args.scale);
  s.key_begin = args.key_begin ? Data<const int32_t>(args.key_begin) : nullptr;
  s.key_end = args.key_end ? Data<const int32_t>(args.key_end) : nullptr;
  return s;
}

}  // namespace lora::cuda
