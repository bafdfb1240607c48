// For p = lengths[b] − s + i, rotated by row table_start[b] + p of the tables:
//   y[b, i]                               = rotated q[b, i]
//   k_pool[page_table[b, p / 64], h, p % 64] ← rotated k[b, i, h]
//   v_pool[page_table[b, p / 64], h, p % 64] ← v[b, i, h]
#include <cstring>

#include "backend/reference/kernels.h"
#include "backend/reference/rotation.h"

namespace lora::reference {

void Run(const PageAppendArgs& args, Scratch, Context&) {
  CheckPages("page_append", args.page_table, args.lengths, args.k_pool.dim(0), UsedBy(args));
  CheckTableStart(args);
  const int64_t count = args.q.dim(1), q_heads = args.q.dim(2), heads = args.k.dim(2);
  const int64_t d = args.q.dim(3), columns = args.page_table.dim(1);
  const size_t size = SizeOf(args.v.dtype);
  for (int64_t b = 0; b < args.q.dim(0); ++b) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token = b * count + i;
      const int64_t position = args.lengths.as<const int32_t>()[b] - count + i;
      const int32_t page = args.page_table.as<const int32_t>()[b * columns + position / kPageSize];
      const int64_t start = args.table_start ? args.table_start.as<const int32_t>()[b] : 0;
      const Rotation rotation{args.cos, args.sin, start + position};
      for (int64_t head = token * q_heads; head < (token + 1) * q_heads; ++head)
        rotation.Turn(args.q, head * d, args.y, head * d);
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t from = (token * heads + h) * d;
        const int64_t to = PageOffset(args.k_pool, page, h, position);
        rotation.Turn(args.k, from, args.k_pool, to);
        std::memcpy(args.v_pool.as<char>() + static_cast<size_t>(to) * size,
                    args.v.as<const char>() + static_cast<size_t>(from) * size,
                    static_cast<size_t>(d) * size);
      }
    }
  }
}

template PlannedCall Plan(const PageAppendArgs&, int);
}  // namespace lora::reference
