// pool[page_table[b, p / 64], h, p % 64] ← src[b, i, h] for p = lengths[b] − s + i.
#include <cstring>

#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"

namespace lora::cpu {

void Run(const PageAppendArgs& args, Scratch, Context& context) {
  CheckPages("page_append", args.page_table, args.lengths, args.pool.dim(0), UsedBy(args));
  if (args.src.numel() == 0) return;
  const int64_t count = args.src.dim(1), heads = args.src.dim(2), columns = args.page_table.dim(1);
  const size_t bytes = static_cast<size_t>(args.src.dim(3)) * SizeOf(args.src.dtype);
  const size_t width = static_cast<size_t>(heads * args.src.dim(3));
  ForRows(context, static_cast<size_t>(args.src.dim(0) * count), width, kCheapGrain,
          [&](size_t begin, size_t end) {
            for (size_t token = begin; token < end; ++token) {
              const int64_t b = static_cast<int64_t>(token) / count;
              const int64_t position =
                  args.lengths.as<const int32_t>()[b] - count + static_cast<int64_t>(token) % count;
              const int32_t page =
                  args.page_table.as<const int32_t>()[b * columns + position / kPageSize];
              const std::byte* src =
                  args.src.as<const std::byte>() + token * static_cast<size_t>(heads) * bytes;
              for (int64_t h = 0; h < heads; ++h, src += bytes) {
                std::memcpy(args.pool.as<std::byte>() +
                                static_cast<size_t>(PageOffset(args.pool, page, h, position)) *
                                    SizeOf(args.src.dtype),
                            src, bytes);
              }
            }
          });
}

}  // namespace lora::cpu
