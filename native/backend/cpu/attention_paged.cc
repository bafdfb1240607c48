#include "backend/cpu/attention_call.h"
#include "backend/cpu/kernels.h"

namespace lora::cpu {
namespace {

AttentionCall CallOf(const AttentionPagedArgs& a) {
  return {AttentionShape(a), a.q, a.k_pool, a.v_pool, a.y, {}, a.phase == AttentionPhase::kDecode};
}

}  // namespace

size_t ScratchBytes(const AttentionPagedArgs& args, int threads) {
  return ScratchBytes(CallOf(args), threads);
}

void Run(const AttentionPagedArgs& args, Scratch scratch, Context& context) {
  CheckPages("attention_paged", args.page_table, args.lengths, args.k_pool.dim(0), UsedBy(args));
  Run(CallOf(args), scratch, context);
}

}  // namespace lora::cpu
