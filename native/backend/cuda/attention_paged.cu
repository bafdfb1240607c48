#include "backend/cuda/attention_launch.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/pages.h"

namespace lora::cuda {
namespace {

// The lengths are not known yet, so the plan is for the longest that the table has room for.
AttentionPlan PlanOf(const AttentionPagedArgs& args, int multiprocessors) {
  AttentionProblem problem;
  problem.batch = args.q.dim(0);
  problem.kv_heads = args.k_pool.dim(1);
  problem.rows = problem.kv_heads == 0 ? 0 : args.q.dim(1) * (args.q.dim(2) / problem.kv_heads);
  problem.d = args.q.dim(3);
  problem.longest = args.page_table.dim(1) * kPageSize;
  if (args.window > 0 && args.window < problem.longest)
    problem.longest = std::min(problem.longest, args.window + args.q.dim(1));
  return PlanAttention(problem, args.q.dtype, multiprocessors);
}

// The check of the pages comes before the partial results and uses the same memory.
size_t BytesOf(const AttentionPlan& plan) { return std::max(plan.scratch_bytes, kPageCheckBytes); }

}  // namespace

size_t ScratchBytes(const AttentionPagedArgs& args, int threads) {
  return BytesOf(PlanOf(args, threads));
}

void Run(const AttentionPagedArgs& args, Scratch scratch, Context& context) {
  RequirePages("attention_paged", args.page_table, args.lengths, args.k_pool.dim(0), UsedBy(args),
               scratch.data(), static_cast<CudaContext&>(context));
  const AttentionPlan plan = PlanOf(args, context.threads());
  if (plan.tiles == 0) return;
  device::PagedShape s{};
  static_cast<device::AttentionShape&>(s) =
      ShapeOf(args.q, args.k_pool.dim(1), args.window, args.scale);
  s.pages = Data<const int32_t>(args.page_table);
  s.lengths = Data<const int32_t>(args.lengths);
  s.max_pages = args.page_table.dim(1);
  LaunchForward("attention_paged", s, plan,
                {args.q, args.k_pool, args.v_pool, args.sinks, args.y, {}}, scratch, context);
}

template PlannedCall Plan(const AttentionPagedArgs&, int);
}  // namespace lora::cuda
