// cache[b, offset + i, :] ← src[b, i, :].
#include <cstring>

#include "backend/reference/kernels.h"

namespace lora::reference {

void Run(const CacheAppendArgs& args, Scratch, Context&) {
  if (args.src.bytes() == 0) return;
  const size_t batches = static_cast<size_t>(args.src.dim(0));
  const size_t src_bytes = args.src.bytes() / batches, cache_bytes = args.cache.bytes() / batches;
  const size_t position_bytes = src_bytes / static_cast<size_t>(args.src.dim(1));
  for (size_t b = 0; b < batches; ++b) {
    std::memcpy(
        args.cache.as<char>() + b * cache_bytes + static_cast<size_t>(args.offset) * position_bytes,
        args.src.as<char>() + b * src_bytes, src_bytes);
  }
}

}  // namespace lora::reference
