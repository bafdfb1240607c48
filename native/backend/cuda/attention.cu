#include "backend/cuda/attention_launch.h"
#include "backend/cuda/attention_shape.h"
#include "backend/cuda/kernels.h"

namespace lora::cuda {
namespace {

AttentionPlan PlanOf(const AttentionForwardArgs& args, int multiprocessors) {
  AttentionProblem problem;
  problem.batch = args.q.dim(0);
  problem.kv_heads = args.k.dim(2);
  problem.rows = problem.kv_heads == 0 ? 0 : args.q.dim(1) * (args.q.dim(2) / problem.kv_heads);
  problem.d = args.q.dim(3);
  problem.longest = args.q.dim(1);
  return PlanAttention(problem, args.q.dtype, multiprocessors);
}

}  // namespace

size_t ScratchBytes(const AttentionForwardArgs& args, int threads) {
  return PlanOf(args, threads).scratch_bytes;
}

void Run(const AttentionForwardArgs& args, Scratch scratch, Context& context) {
  const AttentionPlan plan = PlanOf(args, context.threads());
  if (plan.tiles == 0) return;
  LaunchForward("attention", ShapeOf(args), plan,
                {args.q, args.k, args.v, args.sinks, args.y, args.lse}, scratch, context);
}

template PlannedCall Plan(const AttentionForwardArgs&, int);
}  // namespace lora::cuda
