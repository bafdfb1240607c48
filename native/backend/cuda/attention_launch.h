// Launches the forward pass of attention over keys in one block per sequence, or in pages. Only .cu
// files include this.
#pragma once

#include <type_traits>

#include "backend/cuda/attention_plan.h"
#include "backend/cuda/attention_shape.h"
#include "backend/cuda/device/attention_decode.cuh"
#include "backend/cuda/device/attention_fma.cuh"
#include "backend/cuda/device/attention_mma.cuh"

namespace lora::cuda {

static_assert(kMaxSplits <= device::kMaxParts);

struct ForwardOperands {
  TensorView q, k, v, sinks;  // sinks may be absent
  TensorView y, lse;          // lse may be absent
};

// The plan must have tiles.
template <class Shape>
void LaunchForward(const char* op, const Shape& s, const AttentionPlan& plan,
                   const ForwardOperands& operands, Scratch scratch, Context& context) {
  device::AttentionParts parts;
  if (operands.sinks) parts.sinks = Data<const float>(operands.sinks);
  if (plan.splits > 1) {
    parts.splits = static_cast<int>(plan.splits);
    parts.sums = reinterpret_cast<float*>(scratch.data());
    parts.max = parts.sums + plan.partial_rows * s.d;
    parts.weight = parts.max + plan.partial_rows;
    parts.counters = static_cast<CudaContext&>(context).counters();
  }
  float* const lse = operands.lse ? Data<float>(operands.lse) : nullptr;
  device::LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(plan.blocks());
  ForFloat(operands.q.dtype, [&]<class T>() {
    ForHeadDim(s.d, [&]<int kD>() {
      const auto* q = Data<const T>(operands.q);
      const auto *k = Data<const T>(operands.k), *v = Data<const T>(operands.v);
      auto* y = Data<T>(operands.y);
      if constexpr (sizeof(T) == 4) {
        using Params = device::AttentionFmaParams<T, kD, Shape>;
        Launch<device::AttentionFma<T, kD, Shape>>(op, context, shape,
                                                   Params{s, parts, q, k, v, y, lse});
      } else {
        const bool aligned = AreAligned(s.d, {q, k, v, y});
        if (s.rows <= kDecodeRows) {
          using Params = device::AttentionDecodeParams<T, kD, Shape>;
          Launch<device::AttentionDecode<T, kD, Shape>>(op, context, shape,
                                                        Params{s, parts, q, k, v, y, lse, aligned});
          return;
        }
        const auto launch = [&]<int kRows>() {
          using Params = device::AttentionMmaParams<T, kD, kRows, Shape>;
          Launch<device::AttentionMma<T, kD, kRows, Shape>>(
              op, context, shape, Params{s, parts, q, k, v, y, lse, aligned});
        };
        if constexpr (kD <= 128 && std::is_same_v<T, device::BF16>)
          if (plan.tile.rows == 128) return launch.template operator()<128>();
        launch.template operator()<64>();
      }
    });
  });
}

}  // namespace lora::cuda
