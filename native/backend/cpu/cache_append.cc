#include <cstring>

#include "backend/cpu/kernels.h"

namespace lora::cpu {

// Copies once per batch row, because its new positions are contiguous in src and in the cache.
void Run(const CacheAppendArgs& args, Scratch, Context&) {
  const int64_t batch = args.src.dim(0);
  if (args.src.numel() == 0) return;
  const size_t bytes = args.src.bytes() / static_cast<size_t>(batch);
  const size_t position = bytes / static_cast<size_t>(args.src.dim(1));
  const size_t row = position * static_cast<size_t>(args.cache.dim(1));
  const std::byte* src = args.src.as<const std::byte>();
  std::byte* dst = args.cache.as<std::byte>() + position * static_cast<size_t>(args.offset);
  for (int64_t b = 0; b < batch; ++b, src += bytes, dst += row) std::memcpy(dst, src, bytes);
}

}  // namespace lora::cpu
