// pool[page_table[b, p / 64], h, p % 64] ← src[b, i, h] for p = lengths[b] − s + i.
#include <cstring>

#include "backend/reference/kernels.h"

namespace lora::reference {

void Run(const PageAppendArgs& args, Scratch, Context&) {
  CheckPages("page_append", args.page_table, args.lengths, args.pool.dim(0), UsedBy(args));
  if (args.src.numel() == 0) return;
  const int64_t count = args.src.dim(1), heads = args.src.dim(2), d = args.src.dim(3);
  const int64_t columns = args.page_table.dim(1);
  const size_t size = SizeOf(args.src.dtype);
  for (int64_t b = 0; b < args.src.dim(0); ++b) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t position = args.lengths.as<const int32_t>()[b] - count + i;
      const int32_t page = args.page_table.as<const int32_t>()[b * columns + position / kPageSize];
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t from = ((b * count + i) * heads + h) * d;
        const int64_t to = PageOffset(args.pool, page, h, position);
        std::memcpy(args.pool.as<char>() + static_cast<size_t>(to) * size,
                    args.src.as<const char>() + static_cast<size_t>(from) * size,
                    static_cast<size_t>(d) * size);
      }
    }
  }
}

}  // namespace lora::reference
