#include "backend/cpu/attention/attention_call.h"
#include "backend/cpu/kernels.h"

namespace lora::cpu {
namespace {

AttentionCall CallOf(const AttentionPagedArgs& a) {
  return {AttentionShape(a), a.q, a.k_pool, a.v_pool,
          a.sinks,           a.y, {},       a.phase == AttentionPhase::kDecode};
}

}  // namespace

PlannedCall PlanCall(const AttentionPagedArgs& args, int threads) {
  const PlannedCall call = PlanAttention(CallOf(args), threads);
  return {call.scratch_bytes, [args, run = call.run](Scratch scratch, Context& context) {
            CheckPages("attention_paged", args.page_table, args.lengths, args.k_pool.dim(0),
                       UsedBy(args));
            run(scratch, context);
          }};
}

template PlannedCall Plan(const AttentionPagedArgs&, int);
}  // namespace lora::cpu
