// cache[b, offset + i, …] ← src[b, i, …]. A batch row is one contiguous run in both.
#include "backend/cuda/copy.h"
#include "backend/cuda/kernels.h"

namespace lora::cuda {

void Run(const CacheAppendArgs& args, Scratch, Context& context) {
  if (args.src.numel() == 0) return;
  const int64_t batches = args.src.dim(0);
  const int64_t run = args.src.numel() / batches, pitch = args.cache.numel() / batches;
  const size_t size = SizeOf(args.cache.dtype);
  const int64_t before = args.offset * (run / args.src.dim(1));
  CopyRows("cache_append",
           {args.src.data, args.cache.as<std::byte>() + static_cast<size_t>(before) * size, run,
            pitch, batches, run, size},
           context);
}

}  // namespace lora::cuda
