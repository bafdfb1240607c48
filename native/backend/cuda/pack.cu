// Packing and unpacking are copies, because W stays row-major and one copy serves both directions.
#include "backend/cuda/copy.h"
#include "backend/cuda/kernels.h"

namespace lora::cuda {

size_t PackedBytes(int64_t rows, int64_t cols, DType dtype, Direction direction) {
  if (direction == Direction::kBackward) return 0;
  return static_cast<size_t>(rows * cols) * SizeOf(dtype);
}

void Run(const PackArgs& args, Scratch, Context& context) {
  if (args.direction == Direction::kBackward) return;  // it has no bytes of its own
  CopyElements("pack", args.src.data, args.dst, args.src.numel(), SizeOf(args.src.dtype), context);
}

void Run(const UnpackArgs& args, Scratch, Context& context) {
  CopyElements("unpack", args.src.data, args.dst.data, args.dst.numel(), SizeOf(args.src.dtype),
               context);
}

}  // namespace lora::cuda
