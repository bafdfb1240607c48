#include <algorithm>

#include "backend/reference/attention.h"
#include "backend/reference/kernels.h"

namespace lora::reference {

void Run(const AttentionPagedArgs& args, Scratch, Context&) {
  CheckPages("attention_paged", args.page_table, args.lengths, args.k_pool.dim(0), UsedBy(args));
  const int64_t queries = args.q.dim(1), heads = args.q.dim(2), d = args.q.dim(3);
  const int64_t columns = args.page_table.dim(1);
  for (int64_t b = 0; b < args.q.dim(0); ++b) {
    const int32_t* pages = args.page_table.as<const int32_t>() + b * columns;
    const int64_t length = args.lengths.as<const int32_t>()[b];
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t position = length - queries + i;
      const int64_t first =
          args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : int64_t{0};
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t kv_head = h / (heads / args.k_pool.dim(1));
        Attend(args.q, args.k_pool, args.v_pool, args.y, ((b * queries + i) * heads + h) * d, first,
               position, args.scale, SinkOf(args.sinks, h), [&](int64_t j) {
                 return PageOffset(args.k_pool, pages[j / kPageSize], kv_head, j);
               });
      }
    }
  }
}

template PlannedCall Plan(const AttentionPagedArgs&, int);
}  // namespace lora::reference
