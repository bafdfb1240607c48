#include "backend/cuda/attention_shape.h"
#include "backend/cuda/device/attention_backward_fma.cuh"
#include "backend/cuda/kernels.h"

namespace lora::cuda {

// D of every row.
size_t AttentionBackwardScratchBytes(const AttentionBackwardArgs& args, int) {
  return static_cast<size_t>(args.lse.numel()) * sizeof(float);
}

void AttentionBackward(const AttentionBackwardArgs& args, Scratch scratch, Context& context) {
  const device::AttentionShape s = ShapeOf(args, 0);
  const int64_t pairs = int64_t{s.batch} * s.kv_heads;
  float* const dots = reinterpret_cast<float*>(scratch.data());
  ForActivation(args.q.dtype, [&]<class T>() {
    using Dots = device::RowDotParams<T>;
    const Dots dot{Data<const T>(args.g),
                   Data<const T>(args.y),
                   dots,
                   args.lse.numel(),
                   s.queries,
                   s.q_heads,
                   s.d};
    Launch<device::RowDots<T>>("attention_backward", context,
                               Blocks(dot.count, Dots::kThreads / 32), dot);
    const device::AttentionGradients<T> gradients{s,
                                                  Data<const T>(args.q),
                                                  Data<const T>(args.k),
                                                  Data<const T>(args.v),
                                                  Data<const T>(args.g),
                                                  Data<const float>(args.lse),
                                                  dots,
                                                  Data<T>(args.dq),
                                                  Data<T>(args.dk),
                                                  Data<T>(args.dv)};
    // Blocks of whole tiles: of `length` for each (batch, kv head).
    const auto blocks = [&](int64_t length, int64_t tile, size_t shared_bytes) {
      device::LaunchShape shape;
      shape.grid_x = static_cast<unsigned>(pairs * ((length + tile - 1) / tile));
      shape.shared_bytes = shared_bytes;
      return shape;
    };
    ForHeadDim(s.d, [&]<int kD>() {
      using Keys = device::KeyGradientsFmaParams<T, kD>;
      Launch<device::KeyGradientsFma<T, kD>>("attention_backward", context,
                                             blocks(s.queries, Keys::kKeys, Keys::kSharedBytes),
                                             Keys{gradients});
      using Queries = device::QueryGradientsFmaParams<T, kD>;
      Launch<device::QueryGradientsFma<T, kD>>(
          "attention_backward", context, blocks(s.rows, Queries::kRows, Queries::kSharedBytes),
          Queries{gradients});
    });
  });
}

}  // namespace lora::cuda
