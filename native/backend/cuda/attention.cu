#include "backend/cuda/attention_shape.h"
#include "backend/cuda/device/attention_decode.cuh"
#include "backend/cuda/device/attention_fma.cuh"
#include "backend/cuda/device/attention_mma.cuh"
#include "backend/cuda/kernels.h"

namespace lora::cuda {
namespace {

AttentionPlan PlanOf(const AttentionForwardArgs& args, int multiprocessors) {
  AttentionProblem problem;
  problem.batch = args.q.dim(0);
  problem.kv_heads = args.k.dim(2);
  problem.rows = problem.kv_heads == 0 ? 0 : args.q.dim(1) * (args.q.dim(2) / problem.kv_heads);
  problem.d = args.q.dim(3);
  problem.longest = args.q_offset + args.q.dim(1);
  if (args.window > 0 && args.window < problem.longest)
    problem.longest = std::min(problem.longest, args.window + args.q.dim(1));
  return PlanAttention(
      problem, ForwardTile(PaddedHeadDim(problem.d), args.q.dtype != DType::kF32, problem.rows),
      multiprocessors);
}

}  // namespace

size_t ScratchBytes(const AttentionForwardArgs& args, int threads) {
  return PlanOf(args, threads).scratch_bytes;
}

void Run(const AttentionForwardArgs& args, Scratch scratch, Context& context) {
  const AttentionPlan plan = PlanOf(args, context.threads());
  if (plan.tiles == 0) return;
  const device::AttentionShape s = ShapeOf(args, args.q_offset);
  device::AttentionParts parts;
  if (plan.splits > 1) {
    parts.splits = static_cast<int>(plan.splits);
    parts.sums = reinterpret_cast<float*>(scratch.data());
    parts.max = parts.sums + plan.partial_rows * s.d;
    parts.weight = parts.max + plan.partial_rows;
  }
  float* const lse = args.lse ? Data<float>(args.lse) : nullptr;
  device::LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(plan.blocks());
  ForFloat(args.q.dtype, [&]<class T>() {
    ForHeadDim(s.d, [&]<int kD>() {
      const auto* q = Data<const T>(args.q);
      const auto *k = Data<const T>(args.k), *v = Data<const T>(args.v);
      auto* y = Data<T>(args.y);
      if constexpr (sizeof(T) == 4) {
        using Params = device::AttentionFmaParams<T, kD>;
        shape.shared_bytes = Params::kSharedBytes;
        Launch<device::AttentionFma<T, kD>>("attention", context, shape,
                                            Params{s, parts, q, k, v, y, lse});
      } else {
        const bool aligned = AreAligned(s.d, {q, k, v, y});
        if (s.rows <= kDecodeRows) {
          using Params = device::AttentionDecodeParams<T, kD>;
          shape.shared_bytes = Params::kSharedBytes;
          Launch<device::AttentionDecode<T, kD>>("attention", context, shape,
                                                 Params{s, parts, q, k, v, y, lse, aligned});
        } else {
          using Params = device::AttentionMmaParams<T, kD>;
          shape.shared_bytes = Params::kSharedBytes;
          Launch<device::AttentionMma<T, kD>>("attention", context, shape,
                                              Params{s, parts, q, k, v, y, lse, aligned});
        }
      }
    });
    if (plan.splits == 1) return;
    using Params = device::CombineParams<T>;
    Launch<device::CombineParts<T>>("attention", context,
                                    Blocks(plan.partial_rows / plan.splits, Params::kThreads / 32),
                                    Params{s, parts, Data<T>(args.y), lse});
  });
}

}  // namespace lora::cuda
