#include "backend/cuda/attention_shape.h"
#include "backend/cuda/device/attention_backward_fma.cuh"
#include "backend/cuda/device/attention_backward_mma.cuh"
#include "backend/cuda/kernels.h"

namespace lora::cuda {
namespace {

AttentionBackwardPlan PlanOf(const AttentionBackwardArgs& args, int multiprocessors) {
  AttentionProblem problem;
  problem.batch = args.k.dim(0);
  problem.keys = args.k.dim(1);
  problem.kv_heads = args.k.dim(2);
  problem.d = args.k.dim(3);
  const int64_t group = problem.kv_heads == 0 ? 0 : args.q.dim(2) / problem.kv_heads;
  problem.rows = args.q.dim(1) * group;
  const AttentionTile tile = KeyGradientTile(PaddedHeadDim(problem.d), args.q.dtype != DType::kF32);
  problem.longest = problem.rows;
  if (args.window > 0 && args.window < args.q.dim(1)) {
    const int64_t window = args.window * (args.key_end ? 2 : 1);  // both directions
    problem.longest = std::min(problem.rows, (window + tile.keys) * group);
  }
  return PlanAttentionBackward(problem, tile, multiprocessors);
}

// Training is in f32 or bf16, so only these are instantiated.
template <class F>
void ForTraining(DType dtype, F&& f) {
  if (dtype == DType::kF32) return f.template operator()<float>();
  if (dtype == DType::kBF16) return f.template operator()<device::BF16>();
  Throw("ERR_UNSUPPORTED", "attention", "no gradient for dtype ", NameOf(dtype));
}

template <class T, int kD, int kRows>
void LaunchKeyGradients(const char* op, const device::AttentionGradients<T>& gradients,
                        bool aligned, const device::LaunchShape& shape, Context& context) {
  using Params = device::KeyGradientsMmaParams<T, kD, kRows>;
  Launch<device::KeyGradientsMma<T, kD, kRows>>(op, context, shape, Params{gradients, aligned});
}

// Returns the bytes of D of every row, rounded up so that what follows starts at a multiple of 16.
size_t DotsBytes(const AttentionBackwardArgs& args) {
  return (static_cast<size_t>(args.lse.numel()) * sizeof(float) + 15) / 16 * 16;
}

}  // namespace

size_t ScratchBytes(const AttentionBackwardArgs& args, int threads) {
  const size_t splits = static_cast<size_t>(PlanOf(args, threads).splits);
  const size_t part = 2 * static_cast<size_t>(args.dk.numel()) * sizeof(float);
  return DotsBytes(args) + (splits > 1 ? splits * part : 0);
}

void Run(const AttentionBackwardArgs& args, Scratch scratch, Context& context) {
  constexpr const char* kOp = "attention_backward";
  const AttentionBackwardPlan plan = PlanOf(args, context.threads());
  const device::AttentionShape s = ShapeOf(args);
  float* const dots = reinterpret_cast<float*>(scratch.data());
  ForTraining(args.q.dtype, [&]<class T>() {
    device::AttentionGradients<T> gradients{s,
                                            Data<const T>(args.q),
                                            Data<const T>(args.k),
                                            Data<const T>(args.v),
                                            Data<const T>(args.g),
                                            Data<const T>(args.y),
                                            Data<const float>(args.lse),
                                            dots,
                                            Data<T>(args.dq),
                                            Data<T>(args.dk),
                                            Data<T>(args.dv)};
    if (plan.splits > 1) {
      gradients.splits = static_cast<int>(plan.splits);
      gradients.parts = reinterpret_cast<float*>(scratch.data() + DotsBytes(args));
      gradients.counters = static_cast<CudaContext&>(context).counters();
    }
    device::LaunchShape by_keys, by_rows;
    by_keys.grid_x = static_cast<unsigned>(plan.blocks());
    const auto set_rows = [&](int64_t tile) {
      by_rows.grid_x =
          static_cast<unsigned>(int64_t{s.batch} * s.kv_heads * ((s.rows + tile - 1) / tile));
    };
    ForHeadDim(s.d, [&]<int kD>() {
      if constexpr (sizeof(T) == 4) {
        using Keys = device::KeyGradientsFmaParams<T, kD>;
        using Queries = device::QueryGradientsFmaParams<T, kD>;
        set_rows(Queries::kRows);
        Launch<device::QueryGradientsFma<T, kD>>(kOp, context, by_rows, Queries{gradients});
        Launch<device::KeyGradientsFma<T, kD>>(kOp, context, by_keys, Keys{gradients});
      } else {
        constexpr int kRows = device::kStageRows<kD>;
        using Queries = device::QueryGradientsMmaParams<T, kD>;
        const bool aligned =
            AreAligned(s.d, {args.q.data, args.k.data, args.v.data, args.g.data, args.y.data,
                             args.dq.data, args.dk.data, args.dv.data});
        set_rows(Queries::kRows);
        Launch<device::QueryGradientsMma<T, kD>>(kOp, context, by_rows,
                                                 Queries{gradients, aligned});
        constexpr int kLess = device::kSmallStageRows<kD>;
        using Large = device::KeyGradientsMmaParams<T, kD, kRows>;
        const size_t most = static_cast<CudaContext&>(context).properties().shared_bytes;
        if (BlocksBySharedMemory(Large::kSharedBytes, most) >= 2) {
          LaunchKeyGradients<T, kD, kRows>(kOp, gradients, aligned, by_keys, context);
        } else {
          LaunchKeyGradients<T, kD, kLess>(kOp, gradients, aligned, by_keys, context);
        }
      }
    });
  });
}

template PlannedCall Plan(const AttentionBackwardArgs&, int);
}  // namespace lora::cuda
